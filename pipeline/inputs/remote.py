"""Tars that lie elsewhere: at fsspec URLs, or printed by commands; each is fetched once, whole.

They are read from a folder of the run then, as tars of this machine are. So whatever holds them
need neither seek nor serve ranges, the nodes of a cluster need no network and no credentials, a
tar is carried over once for all jobs and styles, and its SHA-256 is known. It takes as much disk as
the tars do, which is little beside what is made of them: some dozen views of each image.
"""

import hashlib
import itertools
import os
import re
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from manifests.names import clean
from manifests.urls import PIPE, is_url
from pipeline.console import progress
from pipeline.datasets.places import check_space
from pipeline.errors import PipelineError
from pipeline.inputs.fetching import (
    Remote,
    TarFailure,
    ask,
    explain_fault,
    is_noted,
    keep,
    path_of,
    persist,
    read_note,
)
from pipeline.inputs.naming import legible, natural_key
from pipeline.inputs.ranges import expand_ranges, has_range

CACHE = ".content"  # in the folder of a run
AT_ONCE = 4  # tars that are fetched side by side
_HASH = 8  # hexadecimal digits of where a tar is from, in its file's name
_TAR = re.compile(r"[^\s'\"=]*\.tar\b")


class Fetched(NamedTuple):
    """A tar that is here."""

    name: str  # for people and for records: without what may be secret in a URL
    path: Path
    sha256: str = ""  # of one that was fetched


def means_tars_elsewhere(content: str) -> bool:
    """Whether a content is for `fetch_content`: a URL, a command, or a range of names."""
    return is_url(content) or (has_range(content) and not Path(content).exists())


def fetch_content(content: str, cache: Path) -> list[Fetched]:
    """The tars of a content, those that are not on a disk of this machine fetched into `cache`.

    The content is an fsspec URL, or ``pipe:`` and a command of the shell, in either with ranges
    such as ``{00000..00063}``; or a URL with ``*``, where its file system can list. A command is
    run in the working directory, as it is: it is as trusted as whoever gave the content, the author
    of a manifest. Nothing else is executed. Raises PipelineError, one line, where any of them
    cannot be had; those that are fetched then stay, and the same call goes on. Raises ShardError
    where the disk refuses.
    """
    found = _find(content, cache)
    remotes = [tar for tar in found if isinstance(tar, Remote)]
    stop = threading.Event()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        try:
            told = list(pool.map(partial(persist, ask, stop=stop), remotes))
            waiting = [(r, t) for r, t in zip(remotes, told, strict=True) if not is_noted(r, t)]
            check_space(cache, sum(told.get("size") or 0 for _, told in waiting))
            tasks = [pool.submit(keep, remote, told, None, stop) for remote, told in waiting]
            for task in progress(as_completed(tasks), "tars fetched", len(tasks)):
                task.result()
        except BaseException as error:
            stop.set()  # the others leave off
            pool.shutdown(cancel_futures=True)
            if isinstance(error, TarFailure):
                again = "mend that and run the same command again; what is fetched stays"
                raise PipelineError(f"{error}; {again}") from error
            raise
    return [_fetched(tar) if isinstance(tar, Remote) else tar for tar in found]


def bring_back(content: str, cache: Path, wanted: Mapping[Path, str]) -> dict[Path, TarFailure]:
    """Fetch once more those of the `wanted` tars, given with their SHA-256, that are gone.

    Returns why for those that could not be had as they were; jobs that fetch the same one wait for
    each other. Raises ShardError where the disk refuses.
    """
    gone = {path: sha256 for path, sha256 in wanted.items() if not path.is_file()}
    if not gone:
        return {}
    try:
        remotes = {tar.stem: tar for tar in _find(content, cache) if isinstance(tar, Remote)}
    except PipelineError as error:
        kind = error.kind if isinstance(error, TarFailure) else "missing"
        return dict.fromkeys(gone, TarFailure(kind, str(error)))
    failures = {}
    for path, sha256 in gone.items():
        stem = path.with_name(path.name.rsplit(".", 2)[0])
        try:
            if stem not in remotes:
                raise TarFailure("missing", f"{path.name}: its origin is no longer listed")
            told = persist(ask, remotes[stem])
            keep(remotes[stem], told, sha256)
        except TarFailure as failure:
            failures[path] = failure
    return failures


def _find(content: str, cache: Path) -> list[Fetched | Remote]:
    """The tars that a content means, none of them looked at but those of this machine."""
    import fsspec
    from fsspec.implementations.local import LocalFileSystem

    places: list[tuple[str, Any]] = []
    for one in expand_ranges(content):
        if one.startswith(PIPE):
            places.append((one.removeprefix(PIPE), None))
            continue
        try:
            system, place = fsspec.core.url_to_fs(one)
        except (ImportError, ValueError) as error:
            raise PipelineError(f"{_shown(one)}: {error}; give a URL that fsspec opens") from error
        places += [(found, system) for found in _match(one, place, system)]
    names = _name(places)
    found: list[Fetched | Remote] = []
    for name, (place, system) in zip(names, places, strict=True):
        if isinstance(system, LocalFileSystem):
            if not os.path.isfile(place):
                raise PipelineError(f"{place}: no such file; correct the content")
            found.append(Fetched(name, Path(place)))
        else:
            stem = f"{clean(PurePosixPath(name).stem)}-{_hash(f'{content} {place}', _HASH)}"
            found.append(Remote(name, cache.absolute() / stem, place, system))
    return found


def _match(url: str, place: str, system: Any) -> list[str]:
    """The places that a URL means: one, or where it has a ``*``, all that match, in order."""
    if "*" not in place:
        return [place]
    try:
        found = system.glob(place)
    except Exception as error:  # whatever the file system's own library raises
        raise explain_fault(error, _shown(url), place) from error
    if not found:
        raise PipelineError(f"{_shown(url)}: no such tar there; correct the content")
    return sorted(found, key=natural_key)


def _name(places: Sequence[tuple[str, Any]]) -> list[str]:
    """What the tars are called: their paths below what they have in common."""
    paths = []
    for place, system in places:
        word = place.partition("?")[0] if system else ([*_TAR.findall(place)] or ["pipe.tar"])[-1]
        paths.append([part for part in word.split("/") if part] or ["pipe.tar"])
    folders = zip(*(path[:-1] for path in paths), strict=False)
    shared = len(list(itertools.takewhile(lambda parts: len(set(parts)) == 1, folders)))
    names = [legible("/".join(path[shared:])) for path in paths]
    counts = Counter(names)
    return [
        name if counts[name] == 1 else f"{_hash(place, _HASH)}/{name}"
        for name, (place, _) in zip(names, places, strict=True)
    ]


def _fetched(remote: Remote) -> Fetched:
    note = read_note(remote)
    assert note is not None
    return Fetched(remote.name, path_of(remote, note["sha256"]), note["sha256"])


def _hash(text: str, digits: int) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:digits]


def _shown(url: str) -> str:
    """A URL without what may be secret in it."""
    return legible(url.partition("?")[0])
