"""The tar in a shard: plain USTAR in which a member's header follows from its name and size.

Layout: POSIX.1-1988 ustar; webdataset's naming (a key ends at the first dot of the name).
"""

import os
import re
import tarfile
from typing import NamedTuple

from pipeline.shards import ShardError

BLOCK = tarfile.BLOCKSIZE
KEY = re.compile(r"[A-Za-z0-9_-]+")
SUFFIX = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")  # readers lower-case it; no dot may be doubled
_NAME_LIMIT = 100  # bytes of the name field, there is no folder to put in the prefix field
_SIZE_LIMIT = 8**11 - 1  # eleven octal digits
_SIZE = slice(124, 136)  # of a header
_SUM = slice(148, 156)  # of all its bytes, these taken for blanks


def _begin_header() -> bytes:
    """The header of a nameless, empty member, before it is summed."""
    info = tarfile.TarInfo()
    info.mode = 0o444
    header = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    header[_SUM] = b" " * 8
    return bytes(header)


_HEADER = _begin_header()


class Member(NamedTuple):
    suffix: str  # "view_04.rgb.png"
    start: int  # of its data, from the start of the sample
    size: int


def pack_header(key: str, suffix: str, size: int) -> bytes:
    """The 512 bytes before a member. Raises ShardError for a name or size USTAR cannot carry."""
    name = f"{key}.{suffix}"
    if not KEY.fullmatch(key):
        raise ShardError(f"{name}: a key is letters, digits, '-' and '_' (no dot): rename it")
    if not SUFFIX.fullmatch(suffix):
        raise ShardError(f"{name}: a member is lower case letters, digits, '-', '_': rename it")
    if len(name) > _NAME_LIMIT:
        raise ShardError(f"{name}: longer than {_NAME_LIMIT} characters: use a shorter key")
    if size > _SIZE_LIMIT:
        raise ShardError(f"{name}: {size} bytes, a tar member holds 8 GiB: split it")
    header = bytearray(_HEADER)
    header[: len(name)] = name.encode("ascii")
    header[_SIZE] = b"%011o\0" % size
    header[_SUM] = b"%06o\0 " % sum(header)
    return bytes(header)


def pad(size: int) -> bytes:
    """The zeros from the end of a member's data to the next block."""
    return bytes(-size % BLOCK)


def end_archive(size: int) -> bytes:
    """The zeros that end an archive whose members take `size` bytes, as tarfile writes them."""
    return bytes(2 * BLOCK + -(size + 2 * BLOCK) % tarfile.RECORDSIZE)


def split_sample(data: bytes, key: str) -> list[Member]:
    """The members in the bytes of one sample, first header to last padding.

    Strict: every header must be the one `pack_header` makes, so a link, a folder, a path or a
    foreign owner is refused. Raises ShardError naming the member at which the bytes go wrong.
    """
    members: list[Member] = []
    position = 0
    while position < len(data):
        header = data[position : position + BLOCK]
        after = f" after {members[-1].suffix}" if members else ""
        name = header[:_NAME_LIMIT].rstrip(b"\0").decode("ascii", "replace")
        try:
            size = int(header[124:135], 8)
        except ValueError:
            raise ShardError(f"{key}: no tar header{after}") from None
        head, _, suffix = name.partition(".")
        if "/" in name:
            raise ShardError(f"{key}: member {name!r}{after} is in another folder")
        if head != key:
            raise ShardError(f"{key}: member {name!r}{after} belongs to another sample")
        if header[156:157] != tarfile.REGTYPE:
            raise ShardError(f"{name}: is a link, a folder or a device, not a file")
        if size < 0 or pack_header(key, suffix, size) != header:
            raise ShardError(f"{name}: header differs from the one this format writes")
        start = position + BLOCK
        position = start + size + -size % BLOCK
        if position > len(data):
            raise ShardError(f"{name}: cut off")
        if data[start + size : position].strip(b"\0"):
            raise ShardError(f"{name}: padding is not zero")
        members.append(Member(suffix, start, size))
    return members


def read_range(file: int, offset: int, size: int) -> bytes:
    """`size` bytes of an open file from `offset` on, fewer where it ends. Raises OSError."""
    size = max(0, min(size, os.fstat(file).st_size - offset))
    data = os.pread(file, size, offset)
    while len(data) < size and (more := os.pread(file, size - len(data), offset + len(data))):
        data += more
    return data
