"""What there is to stylize: portraits and multi-view identities in folders, tars and columns.

Nothing is opened here but folders, headers of tars and records of columns; what an image holds,
`pipeline.inputs.contents` finds out. Tars that lie elsewhere are fetched first. No torch.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from manifests.names import clean
from pipeline.errors import PipelineError
from pipeline.inputs.archives import list_archive
from pipeline.inputs.columns import is_our_record, list_column
from pipeline.inputs.naming import (
    SUFFIXES,
    Named,
    is_image_name,
    legible,
    make_keys,
    natural_key,
    stem,
)
from pipeline.inputs.remote import fetch_content, means_tars_elsewhere
from pipeline.inputs.sources import LANDMARKS, Input, Source, arrange, check_views

_NO_CONTENT = {"thumbs.db", "desktop.ini"}  # what systems leave in folders


def list_content(content: str, portraits: bool = False, cache: Path | None = None) -> list[Input]:
    """All inputs of a folder of images, an image, tars (a path, a folder or a glob) or a column.

    Or of tars as `pipeline.inputs.remote.fetch_content` takes them, which go into `cache`.

    In a folder of images every file is a portrait, and every folder in it with two or more images
    an identity seen from around; or, with `portraits`, every image at any depth is a portrait.
    NAME.back.png is the back view of NAME.png, and NAME.landmarks.json has its landmarks. Hidden
    files, and other files beside an image of the same name (captions), are not looked at. In a tar,
    members up to the first dot of whose name agree are one identity. Order: natural order of names.

    Raises PipelineError where there is nothing, where a tar cannot be fetched, or `portraits` are
    asked of no folder of images.
    """
    path = Path(content)
    if portraits:
        if not is_folder_of_images(content):
            raise PipelineError(f"{content or repr(content)}: --portraits takes a folder of images")
        return _finish(_list_portraits(path), f"{content}: no images below it")
    if means_tars_elsewhere(content):
        return _finish(_list_fetched(content, cache), f"{legible(content)}: no samples there")
    if content and path.is_dir() and _has_our_records(path):
        return list_column(path)
    if path.suffix == ".tar" and path.is_file() and is_our_record(path.with_suffix(".parquet")):
        return list_column(path.parent, [path.stem])
    inputs: list[Input] = []
    if tars := _find_tars(content):
        inputs = _list_tars(tars)
    elif content and path.is_dir():
        inputs = _list_folder(path)
    elif path.is_file():
        inputs = _list_files([path.name], path.parent, there=names_in(path.parent))
    return _finish(
        inputs,
        f"{content or repr(content)}: no images there, and no .tar of samples; "
        "--portraits looks for images at any depth",
    )


def is_folder_of_images(content: str) -> bool:
    """Whether a content is a folder, and neither of tars nor a column."""
    path = Path(content)
    return bool(content) and path.is_dir() and not (_has_our_records(path) or _find_tars(content))


def names_in(folder: Path) -> frozenset[str]:
    """The names in a folder; none where it cannot be read."""
    try:
        return frozenset(os.listdir(folder))
    except OSError:
        return frozenset()


def list_one(path: Path, name: str, look: Callable[[Path], frozenset[str]] = names_in) -> Input:
    """The portrait in a file, or the identity in a folder, which may be missing or empty.

    For many in one folder, `look` is `names_in` with a memory.
    """
    key = clean(name)
    if path.is_dir():
        problem = ("no_image", f"{legible(name)}: no images in this folder")
        found = _list_identity(path, name)
        return replace(found or Input(legible(name), legible(name), problem=problem), key=key)
    there = look(path.parent)
    backs = [f"{stem(path.name)}.back.{suffix}" for suffix in sorted(SUFFIXES)]
    beside = [back for back in backs if back in there]
    portrait = _list_files([path.name, *beside[:1]], path.parent, there=there)[0]
    return replace(portrait, name=legible(name), origin=legible(name), key=key)


def _finish(inputs: Sequence[Input], nothing: str) -> list[Input]:
    """The same inputs with their keys. Raises PipelineError, saying `nothing`, where are none."""
    if not inputs:
        raise PipelineError(nothing)
    keys = make_keys([Named(stem(one.name), one.origin) for one in inputs])
    return [replace(one, key=key) for one, key in zip(inputs, keys, strict=True)]


def _list_folder(folder: Path) -> list[Input]:
    files, folders = _read_folder(folder)
    identities = (_list_identity(folder / name, name) for name in folders)
    return _in_order([*filter(None, identities), *_list_files(files, folder)])


def _list_portraits(folder: Path) -> list[Input]:
    """The images of a folder and of all below it; one that links lead back to is taken once."""
    inputs: list[Input] = []
    seen: set[tuple[int, int]] = set()
    waiting = [""]  # relative paths that end with a slash
    while waiting:
        below = waiting.pop()
        try:
            status = os.stat(folder / below)
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            files, folders = _read_folder(folder / below)
        except OSError as error:
            if not below:
                raise
            inputs.append(_unreadable(below.rstrip("/"), error))
            continue
        waiting += [f"{below}{name}/" for name in reversed(folders)]
        images = [name for name in files if is_image_name(name)]
        inputs += _list_files(images, folder, below, frozenset(files))
    return _in_order(inputs)


def _list_files(
    names: Sequence[str], folder: Path, below: str = "", there: frozenset[str] | None = None
) -> list[Input]:
    """Portraits; a back view and landmarks go with the portrait that they are named after.

    The files lie in `folder`, or in `below`, a path in it that ends with a slash; landmarks are
    looked for in all that is `there`, else among the names.
    """
    there = frozenset(names) if there is None else there
    stems = {stem(name) for name in names if is_image_name(name)}
    backs = {}
    for name in names:
        front = stem(name).removesuffix(".back")
        if is_image_name(name) and front != stem(name) and front in stems:
            backs[front] = name
    inputs, behind = [], set(backs.values())
    for name in names:
        owners = {name, name.split(".")[0], name.removesuffix(f".{LANDMARKS}")}
        sidecar = not is_image_name(name) and bool(owners & stems)
        if name in behind or sidecar:
            continue
        back, marks = backs.get(stem(name)), f"{stem(name)}.{LANDMARKS}"
        inputs.append(
            Input(
                name=legible(below + name),
                origin=legible(below + name),
                views=(_source(folder, below + name, below + name),),
                back=_source(folder, below + back, below + back) if back else None,
                landmarks=_source(folder, below + marks, below + marks) if marks in there else None,
            )
        )
    return inputs


def _list_identity(folder: Path, name: str) -> Input | None:
    """The identity in a folder of images; None where there are none, and none were promised."""
    try:
        there = os.listdir(folder)
    except OSError as error:
        return _unreadable(name, error)
    names = [file for file in there if _counts(file) and is_image_name(file)]
    if not names:
        if not is_image_name(name):
            return None
        message = f"{legible(name)}: a folder, not a file"
        return Input(legible(name), legible(name), problem=("not_a_file", message))
    around, back = arrange(names)
    marks = f"{stem(around[0])}.{LANDMARKS}"
    alone = len(around) == 1 and marks in there
    return check_views(
        Input(
            name=legible(name),
            origin=legible(name),
            views=tuple(_source(folder, view, f"{name}/{view}") for view in around),
            back=_source(folder, back, f"{name}/{back}") if back else None,
            landmarks=_source(folder, marks, f"{name}/{marks}") if alone else None,
        ),
        advice="; if each is a portrait, add --portraits",
    )


def _unreadable(name: str, error: OSError) -> Input:
    message = f"{legible(name)}: cannot be read: {error.strerror}"
    return Input(legible(name), legible(name), problem=("unreadable", message))


def _list_tars(tars: Sequence[Path]) -> list[Input]:
    """Their samples; tars of one name in several folders are told apart by their folders."""
    common = os.path.commonpath([tar.parent for tar in tars])
    return [
        check_views(one)
        for tar in tars
        for one in list_archive(tar, legible(str(tar.relative_to(common))))
    ]


def _list_fetched(content: str, cache: Path | None) -> list[Input]:
    if cache is None:
        raise PipelineError(f"{legible(content)}: a folder or tars of this machine are taken here")
    return [
        replace(check_views(one), sha256=tar.sha256)
        for tar in fetch_content(content, cache)
        for one in list_archive(tar.path, tar.name)
    ]


def _find_tars(content: str) -> list[Path]:
    """The tars that a path, a folder or a glob means, in natural order."""
    path = Path(content)
    found: Iterable[Path] = []
    if not content:
        return []
    if path.is_dir():
        found = (path / name for name in os.listdir(path) if name.endswith(".tar"))
    elif path.exists():
        found = [path]
    else:
        with suppress(ValueError, NotImplementedError):  # no glob either
            found = list(Path(path.anchor or ".").glob(str(path.relative_to(path.anchor))))
    tars = [tar for tar in found if tar.suffix == ".tar" and _counts(tar.name) and tar.is_file()]
    return sorted(tars, key=lambda tar: natural_key(str(tar)))


def _has_our_records(folder: Path) -> bool:
    return any(is_our_record(path) for path in folder.glob("*.parquet"))


def _read_folder(folder: Path) -> tuple[list[str], list[str]]:
    """The names of the files and of the folders in a folder, each in natural order."""
    files: list[str] = []
    folders: list[str] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if _counts(entry.name):
                (folders if _is_folder(entry) else files).append(entry.name)
    return sorted(files, key=natural_key), sorted(folders, key=natural_key)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _counts(name: str) -> bool:
    """Whether a file is neither hidden nor one of those that systems leave in folders."""
    return not name.startswith(".") and name.casefold() not in _NO_CONTENT


def _in_order(inputs: Iterable[Input]) -> list[Input]:
    return sorted(inputs, key=lambda one: natural_key(one.origin))


def _source(folder: Path, below: str, name: str) -> Source:
    """The file `below` in a folder; `name` is for people."""
    path = folder / below
    try:
        size = path.stat().st_size
    except OSError:
        size = -1
    return Source(path, legible(name), size)
