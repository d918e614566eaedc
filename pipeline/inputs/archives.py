"""Tars of foreign origin as webdataset groups them: names, sizes and links are not trusted."""

import itertools
import re
import tarfile
from pathlib import Path
from typing import BinaryIO, NamedTuple

from pipeline.inputs.naming import is_image_name, legible
from pipeline.inputs.sources import LANDMARKS, Input, Source, arrange

_HEADER_LIMIT = 1 << 20  # bytes of a header's names and attributes
_JSON_LIMIT = 1 << 22
_NAME = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)", re.DOTALL)  # key, then what follows its dot
_META = re.compile(r"(.*/)?__[^/]*__(/.*)?", re.DOTALL)  # webdataset's own notes


class _Member(NamedTuple):
    name: str
    key: str
    rest: str  # of the name, after the key and its dot
    is_file: bool  # else a link or a device
    offset: int  # of its bytes in the tar
    size: int


class _Cautious:
    """An open tar that refuses to be read at once what no header can need."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _HEADER_LIMIT:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self._file.read(size)


def list_archive(path: Path, tar: str) -> list[Input]:
    """The samples of a tar, in its order: consecutive members whose key is the same.

    `tar` is what it is called where the samples lie and in messages.

    Only headers are read. Links are not followed, and names are only names. A tar that is damaged,
    cut off or none at all ends in an input that says so, behind those before the damage.
    """
    members: list[_Member] = []
    try:
        with path.open("rb") as file:
            damage = _read_headers(file, members)
    except OSError as error:
        damage = f"cannot be read: {error.strerror or error}"
    inputs = [
        _describe(path, tar, key, list(group))
        for key, group in itertools.groupby(members, lambda member: member.key)
    ]
    if damage:
        kind = "archive_damaged" if members else "not_an_archive"
        inputs.append(Input(tar, tar, problem=(kind, f"{tar}: {damage}")))
    return inputs


def _read_headers(file: BinaryIO, members: list[_Member]) -> str | None:
    """Appends the members of samples; returns what is wrong with the tar, if anything."""
    end, last = -1, ""
    try:
        with tarfile.open(fileobj=_Cautious(file), mode="r:") as tar:  # type: ignore[call-overload]
            while (info := tar.next()) is not None:
                tar.members.clear()  # else it keeps every one
                if info.offset <= end or info.size < 0:
                    return f"a size that leads backwards{_after(last)}"
                end, last = info.offset, info.name
                match = _NAME.fullmatch(info.name)
                if match and not info.isdir() and not _META.fullmatch(info.name):
                    plain = info.isreg() and not info.issparse()
                    place = info.offset_data, info.size
                    members.append(_Member(info.name, match[1], match[2], plain, *place))
            file.seek(tar.offset)
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                return f"does not end as a tar does{_after(last)}: cut off or damaged there"
    except (tarfile.TarError, ValueError, EOFError, OverflowError) as error:
        return f"{' '.join(str(error).split()) or 'not a tar'}{_after(last)}"
    return None


def _after(name: str) -> str:
    return f" after {legible(name)}" if name else ""


def _describe(path: Path, tar: str, key: str, members: list[_Member]) -> Input:
    """One sample: a portrait where it has one image, an identity seen from around where more."""
    origin = f"{tar}: {legible(key)}"
    sources = {
        m.rest: Source(path, f"{tar}: {legible(m.name)}", m.size, m.offset)
        for m in members
        if m.is_file
    }
    images = [rest for rest in sources if is_image_name(rest)]
    if not images:
        kind, message = "no_image", f"{origin}: no image in this sample"
        for member in members:
            if not member.is_file and is_image_name(member.rest):
                kind, message = (
                    "not_a_file",
                    f"{tar}: {legible(member.name)}: a link or a device",
                )
        return Input(legible(key), origin, problem=(kind, message))
    around, back = arrange(images)
    meta = sources.get("json")
    return Input(
        name=legible(key),
        origin=origin,
        views=tuple(sources[rest] for rest in around),
        back=sources[back] if back else None,
        cameras=meta if meta and len(around) > 1 and meta.size <= _JSON_LIMIT else None,
        landmarks=sources.get(LANDMARKS) if len(around) == 1 else None,
    )
