"""Why bytes are no image: none at all, one that ends early, or one that was changed."""

import re
import struct
import zlib

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"IEND\xaeB`\x82"
_JPEG = b"\xff\xd8\xff"
_JPEG2000 = (b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51")
_GIF = (b"GIF87a", b"GIF89a")
_TIFF = (b"II*\0", b"MM\0*")
_TIFF_PIECES = ((273, 279), (324, 325))  # tags of the offsets and sizes of strips, of tiles
_WORDS = ("truncat", "end of file", "expected to read", "but only got")


def find_damage(data: bytes, error: Exception) -> tuple[str, str]:
    """The kind of failure and a reason, for bytes at which a decoder gave up with `error`.

    "not_an_image": they do not begin as an image of a known format does; "truncated": they do, and
    the end is missing; "damaged": anything else.
    """
    if not _begins_as_image(data):
        return "not_an_image", "not an image of a format that is read here"
    words = " ".join(str(error).lower().split())
    if _ends_early(data) or any(word in words for word in _WORDS):
        return "truncated", f"the file is cut off after {len(data)} bytes"
    return "damaged", "an image that does not decode"


def find_changed_chunk(data: bytes) -> str | None:
    """The name of a PNG's first pixel chunk whose checksum is wrong, which decoders overlook."""
    if not data.startswith(_PNG):
        return None
    position = len(_PNG)
    while position + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 8 + length
        if kind == b"IDAT" and end + 4 <= len(data):
            body = memoryview(data)[position + 4 : end]
            if zlib.crc32(body) != struct.unpack_from(">I", data, end)[0]:
                return "IDAT"
        position = end + 4
    return None


def _begins_as_image(data: bytes) -> bool:
    if data.startswith(b"BM"):
        return len(data) >= 10 and data[6:10] == bytes(4)
    if data.startswith(b"RIFF"):
        return data[8:12] == b"WEBP"
    if data.startswith(b"P"):
        return re.match(rb"P[1-6]\s+(#.*\n)?\s*\d", data) is not None
    return data.startswith((_PNG, _JPEG, *_JPEG2000, *_GIF, *_TIFF)) or _is_avif(data)


def _is_avif(data: bytes) -> bool:
    return data[4:12] in (b"ftypavif", b"ftypavis")


def _ends_early(data: bytes) -> bool:
    """Whether an image's own lengths and end marks say that bytes are missing."""
    if data.startswith(_PNG):
        return _PNG_END not in data
    if data.startswith((_JPEG, *_JPEG2000)):
        return not data.rstrip(b"\0\r\n").endswith(b"\xff\xd9")
    if data.startswith(_GIF):
        return not data.rstrip(b"\0").endswith(b";")
    if data.startswith(b"RIFF"):
        return _stated(data, "<I", 4, 8) > len(data)
    if data.startswith(b"BM"):
        return _stated(data, "<I", 2, 0) > len(data)
    if data.startswith(_TIFF):
        return _tiff_end(data) > len(data)
    if _is_avif(data):
        position = 0
        while position + 8 <= len(data):
            length = _stated(data, ">I", position, 0)
            if length < 8:  # to the end, or 64 bits long
                return False
            position += length
        return position != len(data)
    return False


def _tiff_end(data: bytes) -> int:
    """Where a TIFF's first directory, or the last piece of the pixels that it points to, ends."""
    order = "<" if data.startswith(b"II") else ">"
    directory = _stated(data + bytes(8), f"{order}I", 4, 0)
    if directory + 2 > len(data):
        return directory + 2
    (count,) = struct.unpack_from(f"{order}H", data, directory)
    end = directory + 2 + 12 * count
    last: dict[int, int] = {}  # of the numbers under a tag
    for entry in range(directory + 2, min(end, len(data) - 11), 12):
        tag, kind, number = struct.unpack_from(f"{order}HHI", data, entry)
        form, width = {3: ("H", 2), 4: ("I", 4)}.get(kind, ("B", 1))
        inside = number * width <= 4
        after = (entry + 8 if inside else _stated(data, f"{order}I", entry + 8, 0)) + number * width
        end = max(end, after)
        if number and after <= len(data):
            (last[tag],) = struct.unpack_from(order + form, data, after - width)
    return max(end, *(last.get(start, 0) + last.get(size, 0) for start, size in _TIFF_PIECES))


def _stated(data: bytes, form: str, offset: int, more: int) -> int:
    """A length that a header states, 4 bytes at `offset`, and what it leaves out."""
    return struct.unpack_from(form, data, offset)[0] + more
