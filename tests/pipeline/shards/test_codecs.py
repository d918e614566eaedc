import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from pipeline.shards import ShardError, codecs

IMAGES = hnp.arrays(
    np.uint8, st.tuples(st.integers(1, 20), st.integers(1, 20), st.just(3)), fill=st.nothing()
)
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | FLOATS | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(IMAGES, st.sampled_from(["png", "webp"]))
def test_lossless_images_come_back(image, format):
    data = codecs.encode_rgb(image, format)
    assert np.array_equal(codecs.decode(f"a.{codecs.EXTENSIONS[format]}", data), image)
    assert codecs.encode_rgb(image.copy(), format) == data


def test_views_of_an_array_encode_like_copies():
    image = np.arange(8 * 6 * 3, dtype=np.uint8).reshape(8, 6, 3)
    mirrored = image[:, ::-1]
    assert codecs.encode_rgb(mirrored, "png") == codecs.encode_rgb(mirrored.copy(), "png")


def test_jpeg_keeps_full_colour_resolution_and_stays_near():
    y, x = np.mgrid[:32, :32]
    image = np.stack([x * 8, y * 8, 255 - x * 8], axis=-1).astype(np.uint8)
    data = codecs.encode_rgb(image, "jpeg")
    assert np.abs(codecs.decode("a.jpg", data).astype(int) - image).max() <= 6
    assert Image.open(io.BytesIO(data)).layer[1][1:3] == (1, 1)  # chroma sampling factors


def test_to_uint8_rounds_halves_to_even_and_clamps():
    levels = np.array([-2, -1, 0, 1, 2, 0.5 / 127.5 - 1, 1.5 / 127.5 - 1], np.float32)
    image = np.broadcast_to(levels, (2, 3, 1, 7))
    result = codecs.to_uint8(image)
    assert result.shape == (2, 1, 7, 3)
    assert result[0, 0, :5, 0].tolist() == [0, 0, 128, 255, 255]
    exact = (np.float32(np.clip(levels, -1, 1)) + np.float32(1)) * np.float32(127.5)
    assert result[0, 0, :, 1].tolist() == [int(np.rint(v)) for v in exact]


def test_to_uint8_takes_what_images_came_from():
    levels = np.arange(256).reshape(1, 1, 256).repeat(3, 0)
    image = (levels / 127.5 - 1).astype(np.float32)
    assert np.array_equal(codecs.to_uint8(image), np.moveaxis(levels, 0, -1))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_to_uint8_refuses_what_is_not_finite(bad):
    image = np.zeros((3, 2, 2), np.float32)
    image[1, 0, 1] = bad
    with pytest.raises(ShardError, match="not finite"):
        codecs.to_uint8(image)


@given(hnp.arrays(np.float32, (5, 4), elements=st.floats(2.25, 3.296875, width=32)))
def test_depth_comes_back_to_half_a_level(depth):
    start, end = 2.25, 3.3
    levels = codecs.decode("a.png", codecs.encode_depth(depth, start, end, "png16"))
    assert levels.dtype == np.uint16
    back = codecs.depth_from_levels(levels, start, end)
    assert np.abs(back - depth).max() <= (end - start) / 65535 / 2 + 1e-6
    raw = codecs.decode("a.npy", codecs.encode_depth(depth, start, end, "npy"))
    assert raw.dtype == np.float32
    assert np.array_equal(raw, depth)


def test_depth_background_is_the_last_level():
    depth = np.array([[2.25, 3.3]], np.float32)
    levels = codecs.decode("a.png", codecs.encode_depth(depth, 2.25, 3.3, "png16"))
    assert levels.tolist() == [[0, 65535]]
    assert codecs.depth_from_levels(levels, 2.25, 3.3)[0, 1] == np.float32(3.3)


@pytest.mark.parametrize("bad", [2.2, 3.31, np.nan, np.inf])
@pytest.mark.parametrize("format", ["png16", "npy"])
def test_depth_out_of_range_is_refused(bad, format):
    with pytest.raises(ShardError, match="depth"):
        codecs.encode_depth(np.array([[2.5, bad]], np.float32), 2.25, 3.3, format)


@given(hnp.arrays(np.float32, (3, 4), elements=st.floats(0, 1, width=32)))
def test_mask_comes_back_to_half_a_level(mask):
    back = codecs.decode("a.png", codecs.encode_mask(mask))
    assert back.dtype == np.uint8
    assert np.abs(back / 255 - mask).max() <= 0.5 / 255 + 1e-6


@pytest.mark.parametrize(
    "encode",
    [
        lambda: codecs.encode_mask(np.array([[1.1]], np.float32)),
        lambda: codecs.encode_mask(np.array([[np.nan]], np.float32)),
        lambda: codecs.encode_mask(np.zeros((2, 2), np.float64)),
        lambda: codecs.encode_rgb(np.zeros((2, 2), np.uint8), "png"),
        lambda: codecs.encode_rgb(np.zeros((2, 2, 4), np.uint8), "png"),
        lambda: codecs.encode_rgb(np.zeros((2, 2, 3), np.float32), "png"),
        lambda: codecs.encode_rgb(np.zeros((0, 2, 3), np.uint8), "png"),
        lambda: codecs.encode_rgb(np.zeros((2, 2, 3), np.uint8), "gif"),
        lambda: codecs.encode_depth(np.full((2, 2), 3, np.float32), 2.25, 3.3, "png"),
    ],
)
def test_encoders_refuse_what_they_cannot_keep(encode):
    with pytest.raises(ShardError):
        encode()


@given(JSON)
def test_json_comes_back_and_is_canonical(value):
    data = codecs.encode_json(value)
    assert codecs.encode_json(json.loads(data)) == data
    assert json.loads(data) == _as_float32(value)


def test_json_floats_are_the_shortest_text_of_a_float32():
    value = {"b": [np.float32(0.1), 4.2634, 2.25, 1e-8, 1e30], "a": np.arange(3)}
    assert codecs.encode_json(value) == b'{"a":[0,1,2],"b":[0.1,4.2634,2.25,1e-08,1e+30]}'
    assert codecs.encode_json([np.uint32(7), np.bool_(True), None]) == b"[7,true,null]"
    label = np.random.RandomState(0).randn(25).astype(np.float32)
    assert np.array_equal(np.float32(json.loads(codecs.encode_json(label))), label)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e39, {1: 2}, b"bytes", {"a": object()}])
def test_json_refuses_what_it_cannot_say(bad):
    with pytest.raises(ShardError, match="JSON"):
        codecs.encode_json(bad)


def _pickled_npy() -> bytes:
    sink = io.BytesIO()
    np.save(sink, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    return sink.getvalue()


def _npy_claiming(shape: str) -> bytes:
    sink = io.BytesIO()
    np.save(sink, np.zeros((10, 10), np.float32))
    return sink.getvalue().replace(b"(10, 10)", shape.encode().ljust(8)[:8])


def _png(mode: str, size: tuple[int, int]) -> bytes:
    sink = io.BytesIO()
    Image.new(mode, size).save(sink, "PNG", compress_level=1)
    return sink.getvalue()


PNG = codecs.encode_rgb(np.random.RandomState(0).randint(0, 256, (9, 9, 3)).astype(np.uint8), "png")


@pytest.mark.parametrize(
    ("name", "data", "what"),
    [
        ("k.depth.npy", _pickled_npy(), "plain numbers"),
        ("k.depth.npy", _npy_claiming("(99, 99)"), "does not fit"),
        ("k.depth.npy", _npy_claiming("(9**9,9)"), "does not decode"),
        ("k.depth.npy", b"\x93NUMPY\x01\x00", "does not decode"),
        ("k.rgb.png", PNG[:-30], "does not decode"),
        ("k.rgb.png", b"", "is no PNG"),
        ("k.rgb.webp", PNG, "does not decode"),
        ("k.rgb.png", _png("P", (2, 2)), "colour mode P"),
        ("k.rgb.png", _png("L", (8192, 8193)), "pixels"),
        ("k.json", b'{"a":NaN}', "NaN"),
        ("k.json", b'{"a":', "does not decode"),
        ("k.json", b"[" * 100_000, "does not decode"),
        ("k.pkl", b"", "no decoder"),
    ],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_decode_names_the_member_it_refuses(name, data, what):
    with pytest.raises(ShardError, match=what) as caught:
        codecs.decode(name, data)
    assert str(caught.value).startswith(f"{name}: ")
    assert "\n" not in str(caught.value)


def _as_float32(value):
    if isinstance(value, float):
        return float(str(np.float32(value)))
    if isinstance(value, list):
        return [_as_float32(item) for item in value]
    if isinstance(value, dict):
        return {key: _as_float32(item) for key, item in value.items()}
    return value
