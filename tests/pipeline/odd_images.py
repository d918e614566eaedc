"""Encoded images of every kind that a folder of portraits may hold, good and bad."""

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image, ImageCms

SIDE = 24


def picture(width: int = SIDE + 6, height: int = SIDE, seed: int = 0) -> Image.Image:
    """Smooth colours, so that lossy codecs and resizing change little."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(30, 226, (4, 4, 3), dtype=np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


def encode(image: Image.Image, format: str, **options: Any) -> bytes:
    sink = io.BytesIO()
    image.save(sink, format, **options)
    return sink.getvalue()


def png(width: int, height: int, depth: int, colours: int, rows: bytes) -> bytes:
    """A PNG of raw rows, each with its filter byte."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(rows, 1)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body


def grey16(low: int, high: int, side: int = SIDE) -> bytes:
    """A 16-bit ramp from left to right."""
    ramp = np.linspace(low, high, side).round().astype(np.uint16)
    return encode(Image.fromarray(np.tile(ramp, (side, 1))), "PNG")


def deep_rgb(value: int) -> bytes:
    """One colour of 16 bits a channel."""
    row = b"\0" + np.full((SIDE, 3), value, ">u2").tobytes()
    return png(SIDE, SIDE, 16, 2, row * SIDE)


def half_clear() -> Image.Image:
    """Red, its upper half transparent over blue."""
    image = Image.new("RGBA", (SIDE, SIDE), (255, 0, 0, 255))
    image.paste((0, 0, 255, 0), (0, 0, SIDE, SIDE // 2))
    return image


def turned(orientation: int, format: str = "JPEG") -> bytes:
    """Stored so that EXIF's orientation has to be applied to see `picture()`."""
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    image = picture()
    if orientation in undo:
        image = image.transpose(undo[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}
    return encode(image, format, exif=exif.tobytes(), **options.get(format, {}))


def profile(name: str = "LAB") -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile(name)).tobytes()


def good() -> dict[str, bytes]:
    """File names to images that can be used."""
    rgb = picture()
    frames = {"save_all": True, "append_images": [rgb.rotate(90), rgb.rotate(180)]}
    return {
        "plain.png": encode(rgb, "PNG"),
        "plain.jpg": encode(rgb, "JPEG", quality=95),
        "progressive.jpeg": encode(rgb, "JPEG", progressive=True),
        "plain-phone.jpg": encode(rgb, "MPO", quality=95, **frames),
        "plain.webp": encode(rgb, "WEBP", lossless=True),
        "plain.bmp": encode(rgb, "BMP"),
        "plain.tif": encode(rgb, "TIFF"),
        "lzw.tiff": encode(rgb, "TIFF", compression="tiff_lzw"),
        "plain.avif": encode(rgb, "AVIF"),
        "plain.jp2": encode(rgb, "JPEG2000"),
        "plain.ppm": encode(rgb, "PPM"),
        "cmyk.jpg": encode(rgb.convert("CMYK"), "JPEG", quality=95),
        "cmyk.tif": encode(rgb.convert("CMYK"), "TIFF"),
        "palette.png": encode(rgb.quantize(64), "PNG"),
        "palette-clear.png": encode(rgb.quantize(64), "PNG", transparency=0),
        "grey.png": encode(rgb.convert("L"), "PNG"),
        "bits.png": encode(rgb.convert("1"), "PNG"),
        "grey-alpha.png": encode(rgb.convert("LA"), "PNG"),
        "clear.png": encode(half_clear(), "PNG"),
        "grey16.png": grey16(0, 65535),
        "grey16.tif": encode(Image.open(io.BytesIO(grey16(0, 65535))), "TIFF"),
        "grey16-big-endian.tif": encode(Image.new("I;16B", (SIDE, SIDE), 257 * 77), "TIFF"),
        "deep.png": deep_rgb(40000),
        "animated.gif": encode(rgb, "GIF", **frames),
        "animated.webp": encode(rgb, "WEBP", lossless=True, **frames),
        "animated.png": encode(rgb, "PNG", **frames),
        **{f"turned-{n}.jpg": turned(n) for n in range(1, 9)},
        "turned.png": turned(6, "PNG"),
        "turned.webp": turned(6, "WEBP"),
        "turned.tif": turned(6, "TIFF"),
        "bad-profile.png": encode(rgb, "PNG", icc_profile=b"no profile"),
        "other-profile.png": encode(rgb, "PNG", icc_profile=profile()),
        "wrong-name.png": encode(rgb, "JPEG"),
    }


def bad() -> dict[str, tuple[bytes, str]]:
    """File names to bytes that cannot be used, and the kind of failure."""
    noise = Image.effect_noise((SIDE, SIDE), 60).convert("RGB")
    whole = encode(noise, "PNG")
    jpeg = encode(noise, "JPEG")
    changed = bytearray(whole)
    changed[len(changed) // 2] ^= 255
    cuts = {
        f"cut.{suffix}": (data[: len(data) * 3 // 5], "truncated")
        for suffix, data in {
            "png": whole,
            "jpg": jpeg,
            "webp": encode(noise, "WEBP"),
            "gif": encode(noise, "GIF"),
            "bmp": encode(noise, "BMP"),
            "tif": encode(noise, "TIFF"),
            "tiff": encode(noise, "TIFF", compression="tiff_lzw"),
            "avif": encode(noise, "AVIF"),
            "jp2": encode(noise, "JPEG2000"),
            "ppm": encode(noise, "PPM"),
        }.items()
    }
    return cuts | {
        "head-only.png": (whole[:20], "truncated"),
        "head-only.jpg": (jpeg[:30], "truncated"),
        "changed.png": (bytes(changed), "damaged"),
        "empty.png": (b"", "empty"),
        "pixel.png": (encode(Image.new("RGB", (1, 1)), "PNG"), "too_small"),
        "thin.png": (encode(Image.new("RGB", (300, 15)), "PNG"), "too_small"),
        "huge.png": (png(40_000, 40_000, 8, 0, b""), "too_large"),
        "bomb.png": (png(9000, 9000, 1, 0, b"\0" * 1126 * 9000), "too_large"),
        "text.png": (b"This is no image.\n", "not_an_image"),
        "page.jpg": (b"<html><body>404</body></html>", "not_an_image"),
        "zeros.jpg": (bytes(4096), "not_an_image"),
        "script.png": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not_an_image"),
        "drawing.png": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "not_an_image"),
        "notes.txt": (b"front, left, back\n", "not_an_image"),
        "archive.zip": (b"PK\x03\x04" + bytes(60), "not_an_image"),
        "floats.tif": (encode(Image.new("F", (SIDE, SIDE)), "TIFF"), "unsupported"),
        "wide-integers.tif": (encode(Image.new("I", (SIDE, SIDE)), "TIFF"), "unsupported"),
        "lab.tif": (encode(Image.new("LAB", (SIDE, SIDE)), "TIFF"), "unsupported"),
    }
