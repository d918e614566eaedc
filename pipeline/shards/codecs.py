"""Members to bytes and back: images, depth, masks and JSON, the same bytes for the same values."""

import io
import json
import math
import struct
import zlib
from typing import Any

import fpng
import numpy as np
from numpy.lib import format as npy
from PIL import Image

from pipeline.shards import ShardError

PIXEL_LIMIT = 64 * 2**20
LEVELS = 65535  # of 16-bit depth; the last one is ray_end, the background
EXTENSIONS = {"png": "png", "webp": "webp", "jpeg": "jpg", "png16": "png", "npy": "npy"}
_CONTAINERS = {"png": "PNG", "webp": "WEBP", "jpg": "JPEG"}
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MODES = {"RGB", "L", "I;16"}


def to_uint8(images: Any) -> np.ndarray:
    """Float images [..., 3, H, W] in [-1, 1] (array or CPU tensor) -> uint8 [..., H, W, 3].

    Clamped, then round((x + 1) * 127.5), halves to even. Raises ShardError if not finite.
    """
    values = np.asarray(images, dtype=np.float32)
    if not np.isfinite(values).all():
        raise ShardError("image: not finite; look at the generator or its precision")
    levels = np.rint((np.clip(values, -1, 1) + np.float32(1)) * np.float32(127.5))
    return np.ascontiguousarray(np.moveaxis(levels.astype(np.uint8), -3, -1))


def encode_rgb(image: np.ndarray, format: str) -> bytes:
    """Encodes uint8 [H, W, 3] as "png", lossless "webp" or "jpeg" (quality 95, 4:4:4)."""
    _expect(image, np.uint8, "image", channels=3)
    if format == "png":
        return fpng.from_ndarray(np.ascontiguousarray(image))
    if format == "webp":
        return _save(image, "WEBP", lossless=True, method=0)
    if format == "jpeg":
        return _save(image, "JPEG", quality=95, subsampling=0)
    raise ShardError(f"image format {format!r}: use png, webp or jpeg")


def encode_depth(depth: np.ndarray, start: float, end: float, format: str) -> bytes:
    """Encodes float32 [h, w], distances in [start, end] along unit rays, as "png16" or "npy".

    A png16 level is round((d - start) / (end - start) * 65535), so 65535 is `end`, the
    background. Raises ShardError if a distance is not finite or out of range by half a level.
    """
    _expect(depth, np.float32, "depth")
    levels = np.rint((depth.astype(np.float64) - start) / (end - start) * LEVELS)
    if not (levels >= 0).all() or not (levels <= LEVELS).all():
        low, high = float(depth.min()), float(depth.max())
        raise ShardError(f"depth: {low:g} to {high:g}, must lie in [{start:g}, {end:g}]")
    if format == "png16":
        return _save(levels.astype(np.uint16), "PNG", compress_level=1)
    if format == "npy":
        return encode_array(depth)
    raise ShardError(f"depth format {format!r}: use png16 or npy")


def depth_from_levels(levels: np.ndarray, start: float, end: float) -> np.ndarray:
    """Distances float32 [h, w] of 16-bit levels, the inverse of `encode_depth` to half a level."""
    return (start + levels.astype(np.float64) * ((end - start) / LEVELS)).astype(np.float32)


def encode_array(array: np.ndarray) -> bytes:
    """Encodes plain numbers of any shape as npy, version 1.0."""
    sink = io.BytesIO()
    npy.write_array(sink, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
    return sink.getvalue()


def encode_mask(mask: np.ndarray) -> bytes:
    """Encodes a coverage float32 [h, w] in [0, 1] as 8-bit grey PNG."""
    _expect(mask, np.float32, "mask")
    levels = np.rint(mask * np.float32(255))
    if not (levels >= 0).all() or not (levels <= 255).all():
        raise ShardError(
            f"mask: {float(mask.min()):g} to {float(mask.max()):g}, must lie in [0, 1]"
        )
    return _save(levels.astype(np.uint8), "PNG", compress_level=1)


def encode_json(value: Any) -> bytes:
    """Canonical JSON: sorted keys, no spaces, a float as the shortest text of its float32 value.

    Takes numpy scalars and arrays too. Raises ShardError for what JSON cannot say (NaN, infinity,
    keys that are not strings).
    """
    return json.dumps(_canonical(value), sort_keys=True, separators=(",", ":")).encode()


def decode(name: str, data: bytes) -> Any:
    """A member by the extension of its name.

    png, webp, jpg -> uint8 [H, W, 3], uint8 [H, W] or uint16 [H, W]; npy -> the array; json -> its
    value. No pickle, at most 64 MPix. Raises ShardError naming the member if it does not decode.
    """
    extension = name.rpartition(".")[2]
    try:
        if extension in _CONTAINERS:
            return _decode_image(data, _CONTAINERS[extension])
        if extension == "npy":
            return _decode_npy(data)
        if extension == "json":
            return json.loads(data, parse_constant=_refuse_constant)
    except ShardError as error:
        raise ShardError(f"{name}: {error}") from error
    except Exception as error:  # decoders raise anything on damaged input
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ShardError(f"{name}: does not decode: {reason}") from error
    raise ShardError(f"{name}: no decoder for .{extension}; read it without decoding")


def _decode_image(data: bytes, container: str) -> np.ndarray:
    if container == "PNG":
        _check_png(data)
    with Image.open(io.BytesIO(data), formats=[container]) as image:
        if image.width * image.height > PIXEL_LIMIT:
            raise ShardError(f"{image.width} x {image.height} pixels, the limit is {PIXEL_LIMIT}")
        if image.mode not in _MODES:
            raise ShardError(f"colour mode {image.mode}, expected RGB or grey of 8 or 16 bits")
        return np.array(image)


def _check_png(data: bytes) -> None:
    """Checks length and CRC of every chunk, which Pillow leaves out for pixels."""
    if not data.startswith(_PNG_SIGNATURE):
        raise ShardError("is no PNG")
    position, kind = len(_PNG_SIGNATURE), b""
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 8 + length
        (stated,) = struct.unpack_from(">I", data, end)
        if zlib.crc32(data[position + 4 : end]) != stated:
            raise ShardError(f"damaged in its {kind.decode('ascii', 'replace')} chunk")
        position = end + 4
    if position != len(data):
        raise ShardError(f"{len(data) - position} bytes after its end")


def _decode_npy(data: bytes) -> np.ndarray:
    file = io.BytesIO(data)
    if npy.read_magic(file) != (1, 0):
        raise ShardError("not version 1.0 of the npy format")
    shape, fortran, dtype = npy.read_array_header_1_0(file)
    if fortran or dtype.kind not in "fiub":
        raise ShardError(f"dtype {dtype}{' in Fortran order' * fortran}, expected plain numbers")
    count = math.prod(shape)
    if count > PIXEL_LIMIT or len(data) - file.tell() != count * dtype.itemsize:
        raise ShardError(f"shape {shape} does not fit {len(data)} bytes")
    return np.frombuffer(data, dtype, count, file.tell()).reshape(shape).copy()


def _save(image: np.ndarray, container: str, **options: Any) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(image).save(sink, container, **options)
    return sink.getvalue()


def _expect(array: np.ndarray, dtype: type, what: str, channels: int | None = None) -> None:
    tail = () if channels is None else (channels,)
    if array.dtype != dtype or array.ndim != 2 + len(tail) or array.shape[2:] != tail:
        wanted = ["H", "W", *map(str, tail)]
        raise ShardError(
            f"{what}: {array.dtype} {list(array.shape)}, expected {np.dtype(dtype)} "
            f"[{', '.join(wanted)}]"
        )
    if array.size == 0:
        raise ShardError(f"{what}: empty")


def _canonical(value: Any) -> Any:
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise ShardError("JSON: a key is not a string")
        return {key: _canonical(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    if isinstance(value, np.ndarray):
        return _canonical(value.tolist())
    if isinstance(value, float | np.floating):
        with np.errstate(over="ignore"):
            number = np.float32(value)
        if not np.isfinite(number):
            raise ShardError(f"JSON: {value} is not a finite float32")
        return float(str(number))
    if isinstance(value, np.integer | np.bool_):
        return value.item()
    if value is None or isinstance(value, str | int):
        return value
    raise ShardError(f"JSON: cannot write a {type(value).__name__}")


def _refuse_constant(text: str) -> None:
    raise ShardError(f"{text} in JSON")
