"""Images: files of any origin to squares, centred or placed, and squares to what models take.

Squares are uint8 [S, S, 3], models take float32 [., 3, S, S] in [-1, 1].
"""

import hashlib
import io
import math
import stat
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageCms

from pipeline.errors import PipelineError
from pipeline.inputs.damage import find_changed_chunk, find_damage

MAX_PIXELS = 64_000_000
MAX_BYTES = 1 << 29  # of a file; 64 million pixels of 8 bytes
MIN_SIDE = 16  # pixels of the shorter side
# None of these runs a program or fetches anything; Pillow's EPS, for one, would start Ghostscript.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM")
_ORIENTATION = 0x0112  # the EXIF tag
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SRGB = ImageCms.createProfile("sRGB")
_GAP = 3.0  # how far to shrink by whole factors before the filter
_NEAR = 2.0  # the same of an image that is turned: what is left is read more finely
_SUPPORT = 2  # pixels on either side that the bicubic filter sees

Read = TypeVar("Read")

# What Pillow warns of does no harm to the pixels, or is told in the failure.
warnings.filterwarnings("ignore", module=r"PIL\.")


class ImageFailure(PipelineError):
    """An image that cannot be used; `kind` is the status of the row that it fails.

    Kinds: missing, not_a_file, unreadable, empty, too_large, too_small, not_an_image, truncated,
    damaged, unsupported; of portraits that are aligned also no_landmarks, bad_landmarks, no_face,
    profile, face_cut_off, face_too_small.
    """

    def __init__(self, kind: str, message: str):
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True)
class Picture:
    """The centred square of an image, upright, in sRGB and on white."""

    pixels: np.ndarray  # [S, S, 3] uint8
    facts: dict[str, Any]  # for records: where in which bytes the square comes from


class Upright(NamedTuple):
    """A whole image, upright, in sRGB and on white."""

    image: Image.Image  # RGB
    facts: dict[str, Any]  # as of `decode_picture`, without a box


def to_model(images: np.ndarray, size: int) -> torch.Tensor:
    """[., H, W, 3] uint8 -> [., 3, size, size] in [-1, 1], antialiased where it shrinks."""
    tensor = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    return resize(tensor, size)


def resize(images: torch.Tensor, size: int) -> torch.Tensor:
    """[., C, H, W] -> [., C, size, size], bilinear, antialiased where it shrinks."""
    if images.shape[-2:] == (size, size):
        return images
    return F.interpolate(images, (size, size), mode="bilinear", antialias=True)


def read_image(path: Path) -> np.ndarray:
    """A style image from a file as its centred square, in its own size: [S, S, 3] uint8.

    Raises ImageFailure, which is a PipelineError, where the file is missing or no usable image.
    """
    return decode_picture(read_file(path, str(path)), str(path)).pixels


def read_file(path: Path, name: str) -> bytes:
    """The bytes of a regular file, called `name` in messages.

    Raises ImageFailure: missing, not_a_file, unreadable, empty, too_large.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe may keep its reader waiting for ever
            raise ImageFailure("not_a_file", f"{name}: a folder or a device, not a file")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        dangling = " (a link that leads nowhere)" if path.is_symlink() else ""
        raise ImageFailure("missing", f"{name}: {error.strerror}{dangling}") from None
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ImageFailure("unreadable", f"{name}: cannot be read: {reason}") from None
    if len(data) > MAX_BYTES:
        raise ImageFailure("too_large", f"{name}: more than {MAX_BYTES >> 20} MiB")
    return data


def decode_picture(data: bytes, name: str, size: int | None = None) -> Picture:
    """The centred square of an encoded image, `size` pixels wide, else in its own size.

    Of an animation the first frame; turned as EXIF says; colours through an embedded profile to
    sRGB where there is a usable one; transparent pixels on white; 16 bits scaled to 8. The facts
    are the bytes' "sha256", the "size" [width, height] of the stored image, the square's "box"
    [left, top, right, bottom] in it, the EXIF "orientation" (1 to 8) by which the square was turned
    afterwards, "icc" ("none", "srgb", "converted", "ignored") and "animated".

    Raises ImageFailure: empty, too_large, too_small, not_an_image, truncated, damaged, unsupported.
    """
    return _open(data, name, lambda image: _square(image, data, name, size))


def decode_upright(data: bytes, name: str) -> Upright:
    """A whole encoded image; all else as `decode_picture`, which says what it raises."""

    def read(image: Image.Image) -> Upright:
        facts, profile = _load(image, data, name, None)
        colours, facts["icc"] = _to_srgb(_plain(image, name), profile)
        return Upright(_turn(colours, facts["orientation"]), facts)

    return _open(data, name, read)


def warp(image: Image.Image, matrix: np.ndarray, size: int) -> np.ndarray:
    """An RGB image through a similarity, `size` pixels on a side: [size, size, 3] uint8.

    The matrix [2, 3] leads from places in the image to places in the square, both continuous: pixel
    i reaches from i to i + 1, its centre is i + 0.5. Where the square shrinks the image all its
    pixels count: it is shrunk by a whole factor first, then read more finely than the square is,
    bicubically, and that is shrunk by an antialiasing filter. Beyond its border the image goes on
    with the border's own pixels.
    """
    linear = np.linalg.inv(matrix[:, :2])  # from the square back
    back = np.column_stack([linear, -linear @ matrix[:, 2]])  # [2, 3]
    step = math.hypot(*linear[:, 0])  # pixels of the image for one of the square
    factor = max(1, int(step / _NEAR))
    finer = max(1, math.ceil(step / factor - 1e-6))  # how many times
    first, last = -_SUPPORT, size + _SUPPORT  # of the square, with what its filter sees beyond
    ends = [[first, last, first, last], [first, first, last, last], [1, 1, 1, 1]]
    corners = back @ np.array(ends)  # [2, 4]
    margin = (_SUPPORT + 1) * factor
    low = np.floor((corners.min(1) - margin) / factor).astype(int)  # in shrunk pixels
    high = np.ceil((corners.max(1) + margin) / factor).astype(int)
    shrunk = _cut_out(image, low, high, factor)
    start = back @ [first, first, 1] - low * factor
    into = np.column_stack([back[:, :2] / finer, start]) / factor
    fine, inner = finer * (last - first), finer * _SUPPORT
    box = (inner, inner, fine - inner, fine - inner)
    bands = []
    for band in shrunk.split():
        read = band.convert("F").transform(  # of bytes it would round down
            (fine, fine), Image.Transform.AFFINE, into.ravel().tolist(), Image.Resampling.BICUBIC
        )
        bands.append(np.asarray(read.resize((size, size), Image.Resampling.BICUBIC, box)))
    return np.stack(bands, -1).round().clip(0, 255).astype(np.uint8)


def _cut_out(image: Image.Image, low: np.ndarray, high: np.ndarray, factor: int) -> Image.Image:
    """What lies between two corners (x, y) in an image shrunk by a factor, its border repeated."""
    ends = -(-np.array(image.size) // factor)  # [2], of the image in shrunk pixels
    first, last = np.clip(low, 0, ends - 1), np.clip(high, 1, ends)
    box = (*(first * factor).tolist(), *np.minimum(last * factor, image.size).tolist())
    inside = np.asarray(image.reduce(factor, box))
    columns, rows = (
        np.clip(np.arange(low[axis], high[axis]), first[axis], last[axis] - 1) - first[axis]
        for axis in (0, 1)
    )
    return Image.fromarray(inside[rows][:, columns])


def _open(data: bytes, name: str, read: Callable[[Image.Image], Read]) -> Read:
    """What is read from encoded bytes, or the ImageFailure that says what is wrong with them."""
    if not data:
        raise ImageFailure("empty", f"{name}: an empty file")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return read(image)
    except ImageFailure:
        raise
    except MemoryError:
        raise ImageFailure("too_large", f"{name}: does not fit into memory") from None
    except Image.DecompressionBombError:
        raise _too_large(name, "more pixels than can be counted here") from None
    except Exception as error:  # decoders raise anything on damaged input
        kind, reason = find_damage(data, error)
        raise ImageFailure(kind, f"{name}: {reason}") from None


def _square(image: Image.Image, data: bytes, name: str, size: int | None) -> Picture:
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    facts, profile = _load(image, data, name, size)
    colours, facts["icc"] = _to_srgb(_shrink(_plain(image, name), size), profile)
    facts["box"] = [left, top, left + side, top + side]
    return Picture(np.array(_turn(colours, facts["orientation"])), facts)


def _load(
    image: Image.Image, data: bytes, name: str, size: int | None
) -> tuple[dict[str, Any], bytes | None]:
    """Decode the first frame, no finer than a square of `size` needs; facts and colour profile."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise _too_large(name, f"{width}x{height} pixels")
    side = min(width, height)
    if side < MIN_SIDE:
        raise ImageFailure(
            "too_small", f"{name}: {width}x{height} pixels, under {MIN_SIDE} on a side"
        )
    animated = image.format != "MPO" and bool(getattr(image, "is_animated", False))
    if size is not None:
        image.draft(None, (2 * size * width // side, 2 * size * height // side))
    image.load()
    if changed := find_changed_chunk(data):
        raise ImageFailure("damaged", f"{name}: damaged in its {changed} chunk")
    facts = {
        "sha256": hashlib.sha256(data).hexdigest(),
        "size": [width, height],
        "orientation": _read_orientation(image),
        "animated": animated,
    }
    return facts, image.info.get("icc_profile")


def _turn(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(_TURNS[orientation]) if orientation in _TURNS else image


def _too_large(name: str, what: str) -> ImageFailure:
    return ImageFailure("too_large", f"{name}: {what}, over the limit of {MAX_PIXELS}")


def _plain(image: Image.Image, name: str) -> Image.Image:
    """The image as L, LA, RGB, RGBA or CMYK."""
    if image.mode.startswith("I;16"):
        levels = np.array(image, dtype=np.uint16)
        np.minimum(levels, 65535 - 128, out=levels)
        levels += 128
        levels //= 257  # rounded: 65535 is 255
        return Image.fromarray(levels.astype(np.uint8))
    if image.mode in ("I", "F", "LAB", "HSV"):
        message = f"{name}: pixels of mode {image.mode} have no known colours"
        raise ImageFailure("unsupported", message)
    if image.mode == "LA":
        return image
    if image.has_transparency_data:
        return image if image.mode == "RGBA" else image.convert("RGBA")
    return image if image.mode in ("L", "RGB", "CMYK") else image.convert("RGB")


def _shrink(image: Image.Image, size: int | None) -> Image.Image:
    """The centred square, `size` wide."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    box = (left, top, left + side, top + side)
    if size is None or size == side:
        return image.crop(box)
    return image.resize((size, size), Image.Resampling.BICUBIC, box, reducing_gap=_GAP)


def _to_srgb(image: Image.Image, profile: bytes | None) -> tuple[Image.Image, str]:
    """RGB on white, and what was done with the embedded profile."""
    colours = image.convert({"LA": "L", "RGBA": "RGB"}.get(image.mode, image.mode))
    verdict = "none"
    if profile:
        colours, verdict = _apply_profile(colours, profile)
    colours = colours.convert("RGB")
    if image.mode in ("LA", "RGBA"):
        paper = Image.new("RGB", image.size, "white")
        paper.paste(colours, mask=image.getchannel("A"))
        colours = paper
    return colours, verdict


def _apply_profile(image: Image.Image, profile: bytes) -> tuple[Image.Image, str]:
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "sRGB" in ImageCms.getProfileDescription(opened):
            return image, "srgb"
        converted = ImageCms.profileToProfile(image, opened, _SRGB, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):  # damaged, or of other colours
        return image, "ignored"
    return (image, "ignored") if converted is None else (converted, "converted")


def _read_orientation(image: Image.Image) -> int:
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged EXIF; the pixels are whole
        return 1
    return orientation if type(orientation) is int and 1 <= orientation <= 8 else 1
