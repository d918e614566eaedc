import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from pipeline.errors import PipelineError
from pipeline.images import (
    ImageFailure,
    decode_picture,
    decode_upright,
    read_file,
    read_image,
    resize,
    to_model,
    warp,
)
from pipeline.shards.codecs import to_uint8
from tests.pipeline import odd_images
from tests.pipeline.odd_images import SIDE, encode, grey16, half_clear, picture, turned

GOOD, BAD = odd_images.good(), odd_images.bad()
SQUARE = np.asarray(picture().crop((3, 0, 3 + SIDE, SIDE)))  # of `picture()`


def difference(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.astype(float) - other.astype(float)).mean())


def outcome(data: bytes, name: str) -> np.ndarray | str:
    """The pixels, or the kind of failure."""
    try:
        return decode_picture(data, name).pixels
    except ImageFailure as failure:
        return failure.kind


@given(hnp.arrays(np.uint8, st.tuples(st.just(2), st.just(4), st.just(4), st.just(3))))
def test_to_model_is_undone_by_to_uint8(images: np.ndarray) -> None:
    tensor = to_model(images, 4)
    assert tensor.shape == (2, 3, 4, 4)
    assert tensor.abs().max() <= 1
    np.testing.assert_array_equal(to_uint8(tensor), images)


def test_resize_averages_what_it_shrinks() -> None:
    checks = torch.tensor([[-1.0, 1.0], [1.0, -1.0]]).repeat(4, 4)[None, None]
    assert resize(checks, 4)[..., 1:-1, 1:-1].abs().max() < 1e-6


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("size", [None, 32, 8])
def test_every_kind_becomes_a_square(name: str, size: int | None) -> None:
    made = decode_picture(GOOD[name], name, size)
    side = size or min(made.facts["size"])
    assert made.pixels.shape == (side, side, 3)
    assert made.pixels.dtype == np.uint8


@pytest.mark.parametrize("name", [n for n in GOOD if n.startswith(("plain", "lzw", "animated"))])
def test_colours_are_those_of_the_image(name: str) -> None:
    made = decode_picture(GOOD[name], name)
    assert difference(made.pixels, SQUARE) < (20 if name == "animated.gif" else 3)
    assert made.facts["animated"] == name.startswith("animated")
    assert made.facts["box"] == [3, 0, 3 + SIDE, SIDE]


@pytest.mark.parametrize("name", ["cmyk.jpg", "cmyk.tif", "palette.png", "wrong-name.png"])
def test_other_colour_modes_look_the_same(name: str) -> None:
    assert difference(decode_picture(GOOD[name], name).pixels, SQUARE) < 10


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    for name in ("grey16.png", "grey16.tif"):
        ramp = decode_picture(GOOD[name], name).pixels
        np.testing.assert_allclose(ramp[0, :, 0], np.linspace(0, 255, SIDE), atol=0.51)
    big_endian = decode_picture(GOOD["grey16-big-endian.tif"], "big-endian").pixels
    assert (big_endian == 77).all()
    dark = decode_picture(grey16(257, 257 * 40), "dark").pixels
    np.testing.assert_allclose(dark[5, :, 1], np.linspace(1, 40, SIDE), atol=0.51)
    assert abs(int(decode_picture(GOOD["deep.png"], "deep").pixels[0, 0, 0]) - 40000 / 257) <= 1


@pytest.mark.parametrize("size", [SIDE, 2 * SIDE, SIDE // 2])
def test_transparency_shows_white_and_no_hidden_colour(size: int) -> None:
    pixels = decode_picture(encode(half_clear(), "PNG"), "clear", size).pixels.astype(int)
    assert (pixels[0] == 255).all()
    assert (pixels[-1] == [255, 0, 0]).all()
    assert (pixels[:, :, 1] == pixels[:, :, 2]).all()  # no blue at the edge
    grey = Image.new("LA", (SIDE, SIDE), (0, 128))
    assert (decode_picture(encode(grey, "PNG"), "grey").pixels == 127).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_exif_orientation_is_applied(orientation: int, format: str) -> None:
    made = decode_picture(turned(orientation, format), "turned")
    assert difference(made.pixels, SQUARE) < 4
    assert format == "TIFF" or made.facts["orientation"] == orientation


def test_unusable_profiles_are_ignored() -> None:
    rgb = picture(SIDE, SIDE)
    for name, profile, verdict in [
        ("none", None, "none"),
        ("sRGB", odd_images.profile("sRGB"), "srgb"),
        ("broken", b"no profile", "ignored"),
        ("of other colours", odd_images.profile("LAB"), "ignored"),
    ]:
        options = {} if profile is None else {"icc_profile": profile}
        made = decode_picture(encode(rgb, "PNG", **options), name)
        assert made.facts["icc"] == verdict, name
        np.testing.assert_array_equal(made.pixels, np.asarray(rgb))


def test_usable_profile_is_converted() -> None:
    """In a profile whose red is sRGB's green and the other way round, colours change places."""
    profile = bytearray(odd_images.profile("sRGB").replace("sRGB".encode("utf-16-be"), b"\0a" * 4))
    red, green = (profile.index(tag) + 4 for tag in (b"rXYZ", b"gXYZ"))
    profile[red : red + 4], profile[green : green + 4] = (
        profile[green : green + 4], profile[red : red + 4]
    )  # fmt: skip
    for mode in ("RGB", "RGBA"):
        image = Image.new(mode, (SIDE, SIDE), (200, 40, 90))
        made = decode_picture(encode(image, "PNG", icc_profile=bytes(profile)), "swapped")
        assert made.facts["icc"] == "converted"
        np.testing.assert_allclose(made.pixels[3, 3], [40, 200, 90], atol=2)


@pytest.mark.parametrize("name", BAD)
def test_every_bad_file_is_told_apart(name: str) -> None:
    data, kind = BAD[name]
    with pytest.raises(ImageFailure) as caught:
        decode_picture(data, f"folder/{name}", 32)
    assert caught.value.kind == kind
    assert str(caught.value).startswith(f"folder/{name}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [n for n in GOOD if n.startswith(("plain", "lzw", "animated"))])
def test_no_beginning_of_a_file_is_taken_for_the_whole(name: str) -> None:
    whole = decode_picture(GOOD[name], name).pixels
    data = GOOD[name]
    for length in range(0, len(data), max(1, len(data) // 60)):
        made = outcome(data[:length], name)
        if isinstance(made, str):
            short = {"empty", "not_an_image"} if length < 16 else set()
            assert made in {"truncated", "damaged"} | short
        else:
            np.testing.assert_array_equal(made, whole)


@given(st.sampled_from(sorted(GOOD)), st.data())
def test_damage_never_raises_anything_else(name: str, data: st.DataObject) -> None:
    damaged = bytearray(GOOD[name])
    position = data.draw(st.integers(0, len(damaged) - 1))
    damaged[position] = data.draw(st.integers(0, 255))
    made = outcome(bytes(damaged), name)
    assert isinstance(made, str) or made.shape[2] == 3


@given(st.binary(max_size=300))
def test_bytes_are_no_images(data: bytes) -> None:
    with pytest.raises(ImageFailure):
        decode_picture(data, "noise", 16)


def test_forty_megapixels_fit_into_memory(tmp_path: Path) -> None:
    rows = (b"\0" + bytes(range(240)) * 100) * 5000
    Image.new("RGB", (8000, 5000), (9, 99, 199)).save(tmp_path / "large.jpg")
    (tmp_path / "large.png").write_bytes(odd_images.png(8000, 5000, 8, 2, rows))
    code = """
import resource, sys
from pathlib import Path
from pipeline.images import decode_picture, read_file
for name in sys.argv[1:]:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    made = decode_picture(read_file(Path(name), name), name, 64)
    assert made.pixels.shape == (64, 64, 3) and made.facts["box"] == [1500, 0, 6500, 5000]
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    files = [str(tmp_path / name) for name in ("large.jpg", "large.png")]
    command = [sys.executable, "-c", code, *files]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    jpeg, png = map(int, done.stdout.split())
    assert jpeg < 64  # decoded at an eighth of its size
    assert png < 400  # the pixels are 115 MiB


def test_files_that_cannot_be_read_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "dangling.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    os.mkfifo(tmp_path / "pipe.png")
    for name, kind, told in [
        ("none.png", "missing", "No such file"),
        ("dangling.png", "missing", "a link that leads nowhere"),
        ("folder.png", "not_a_file", "a folder or a device"),
        ("pipe.png", "not_a_file", "a folder or a device"),
        ("loop.png", "unreadable", "symbolic links"),
    ]:
        with pytest.raises(ImageFailure, match=told) as caught:
            read_file(tmp_path / name, name)
        assert caught.value.kind == kind


def test_permission_and_size_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(bytes(100))
    monkeypatch.setattr("pipeline.images.MAX_BYTES", 99)
    with pytest.raises(ImageFailure, match=r"a.png: more than 0 MiB"):
        read_file(tmp_path / "a.png", "a.png")

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", refuse)
    with pytest.raises(ImageFailure, match=r"a.png: cannot be read: Permission denied") as caught:
        read_file(tmp_path / "a.png", "a.png")
    assert caught.value.kind == "unreadable"


def test_style_image_keeps_its_size(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(GOOD["plain.png"])
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), SQUARE)
    with pytest.raises(PipelineError, match=r"none.png: No such file"):
        read_image(tmp_path / "none.png")
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(PipelineError, match=r"text.png: not an image"):
        read_image(tmp_path / "text.png")


@pytest.mark.parametrize("name", GOOD)
def test_whole_image_has_the_centred_square_in_it(name: str) -> None:
    upright = decode_upright(GOOD[name], name)
    square = decode_picture(GOOD[name], name)
    assert upright.image.mode == "RGB"
    assert upright.facts == {k: v for k, v in square.facts.items() if k != "box"}
    width, height = upright.image.size
    side = len(square.pixels)
    left, top = (width - side) // 2, (height - side) // 2
    cut = np.asarray(upright.image)[top : top + side, left : left + side]
    np.testing.assert_array_equal(cut, square.pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_whole_image_is_upright(orientation: int) -> None:
    image = decode_upright(turned(orientation), "turned").image
    assert difference(np.asarray(image), np.asarray(picture())) < 4


@pytest.mark.parametrize("name", BAD)
def test_every_bad_file_is_told_apart_when_read_whole(name: str) -> None:
    data, kind = BAD[name]
    with pytest.raises(ImageFailure) as caught:
        decode_upright(data, f"folder/{name}")
    assert caught.value.kind == kind


def similarity(scale: float, degrees: float, shift: tuple[float, float]) -> np.ndarray:
    """From places in an image to places in a square [2, 3]."""
    c, s = scale * math.cos(math.radians(degrees)), scale * math.sin(math.radians(degrees))
    return np.array([[c, -s, shift[0]], [s, c, shift[1]]])


def waves(x: np.ndarray, y: np.ndarray, length: float) -> np.ndarray:
    """A smooth picture of everywhere, [..., 3] from 0 to 255: each colour a wave of its own."""
    x, y = 2 * np.pi * x / length, 2 * np.pi * y / length
    tones = np.cos(x + 0.3 * y), np.cos(y - 0.2 * x + 1), np.cos(0.7 * x + 0.7 * y + 2)
    return np.asarray(127.5 + 110 * np.stack(tones, -1))


def places(width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """x and y of the pixels' centres, [H, W] each."""
    y, x = np.mgrid[:height, :width] + 0.5
    return x, y


@pytest.mark.parametrize("degrees", [0, 17, 90, 200])
@pytest.mark.parametrize("scale", [2.3, 1.0, 0.8, 0.45, 0.31, 0.13, 0.029])
def test_warp_shows_what_is_there(scale: float, degrees: float) -> None:
    """A wave whose form is known, read off at the places that the matrix says, to a level or two.

    Its length is 40 pixels of what is coarser; the square lies well inside the image.
    """
    size, length = 32, 40 * max(1, 1 / scale)
    side = math.ceil(2 * size / scale) + 20
    matrix = similarity(scale, degrees, (0, 0))
    matrix[:, 2] = size / 2 - matrix[:, :2] @ [side / 2 + 1.3, side / 2 - 2.1]
    image = Image.fromarray(waves(*places(side, side), length).round().astype(np.uint8))
    made = warp(image, matrix, size)
    inverse = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))
    x, y = places(size, size)
    there = np.einsum("ij,jhw->ihw", inverse[:2], np.stack([x, y, np.ones_like(x)]))
    error = np.abs(made.astype(float) - waves(there[0], there[1], length))
    assert error.mean() < 1.0
    assert error.max() < 4


@pytest.mark.parametrize("scale", [0.5, 0.37, 0.2, 0.11, 0.05])
@pytest.mark.parametrize("degrees", [0, 30])
def test_warp_averages_what_it_shrinks(scale: float, degrees: float) -> None:
    """Stripes finer than the square's pixels become their mean, whatever the angle."""
    side = math.ceil(50 / scale) + 40
    stripes = np.zeros((side, side, 3), np.uint8)
    stripes[:, ::2] = 255
    matrix = similarity(scale, degrees, (0, 0))
    matrix[:, 2] = 16 - matrix[:, :2] @ [side / 2, side / 2]
    made = warp(Image.fromarray(stripes), matrix, 32).astype(int)
    assert np.abs(made - 127.5).max() < 1


def test_warp_by_nothing_changes_nothing() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    np.testing.assert_array_equal(warp(image, similarity(1, 0, (0, 0)), 40), noise)
    moved = warp(image, similarity(1, 0, (-7, -3)), 30)
    np.testing.assert_array_equal(moved, noise[3:33, 7:37])
    quarter = warp(image, similarity(1, 90, (40, 0)), 40)  # x to y: clockwise
    np.testing.assert_array_equal(quarter, np.rot90(noise, -1))


@pytest.mark.parametrize("scale", [1.0, 0.2])
def test_beyond_the_border_are_the_borders_pixels(scale: float) -> None:
    side = round(20 / scale)
    image = Image.new("RGB", (side, side), (10, 200, 90))
    shifts = [(0, 0), (15, 0), (-15, 0), (0, 15), (0, -15), (500, 500), (-500, 3), (5, -500)]
    for shift in shifts:
        assert (warp(image, similarity(scale, 0, shift), 20) == [10, 200, 90]).all()
        assert (warp(image, similarity(scale, 33, shift), 20) == [10, 200, 90]).all()
    ramp = np.repeat(np.arange(side, dtype=np.uint8)[None, :, None], side, 0).repeat(3, 2)
    made = warp(Image.fromarray(ramp), similarity(1, 0, (5, 0)), side)
    assert (made[:, :5] == 0).all()
    np.testing.assert_array_equal(made[:, 5:], ramp[:, : side - 5])


@pytest.mark.parametrize(("scale", "degrees"), [(1.3, 20), (0.9, -140), (0.4, 70)])
def test_a_square_goes_back_with_its_matrix(scale: float, degrees: float) -> None:
    """As the README says; what was seen of the image is there again, but for its finest detail."""
    image = Image.fromarray(waves(*places(300, 200), 90).round().astype(np.uint8))
    matrix = similarity(scale, degrees, (0, 0))
    matrix[:, 2] = 32 - matrix[:, :2] @ [150, 100]
    square = Image.fromarray(warp(image, matrix, 64))
    coefficients = np.array(matrix).ravel().tolist()
    back = square.transform(
        image.size, Image.Transform.AFFINE, coefficients, Image.Resampling.BICUBIC
    )
    seen = Image.new("L", (64, 64), 255).transform(image.size, Image.Transform.AFFINE, coefficients)
    mask = np.asarray(seen) > 0
    assert mask.sum() > 1500
    error = np.abs(np.asarray(back).astype(float) - np.asarray(image))[mask]
    assert error.mean() < 1.5
