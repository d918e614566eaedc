import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.inputs.damage import find_changed_chunk, find_damage
from tests.pipeline import odd_images

GOOD = odd_images.good()
BEGINNINGS = [
    b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"II*\0", b"MM\0*", b"RIFF\0\0\0\0WEBP",
    b"BM\0\0\0\0\0\0\0\0", b"\0\0\0\x1cftypavif", b"\xff\x4f\xff\x51", b"P6 3 3 255\n",
]  # fmt: skip


@given(st.sampled_from(BEGINNINGS), st.binary(max_size=200))
def test_any_bytes_have_a_reason(beginning: bytes, rest: bytes) -> None:
    kind, reason = find_damage(beginning + rest, ValueError("odd"))
    assert kind in {"truncated", "damaged"}
    assert reason


@given(st.binary(max_size=12).map(lambda data: b"text " + data))
def test_other_bytes_are_no_image(data: bytes) -> None:
    assert find_damage(data, OSError("truncated"))[0] == "not_an_image"


@pytest.mark.parametrize(
    "name", [n for n in GOOD if n.startswith(("plain", "lzw")) and not n.endswith("ppm")]
)
def test_the_end_is_where_the_image_says(name: str) -> None:
    """A whole image at which something else went wrong is damaged, a shorter one is cut off."""
    data = GOOD[name]
    assert find_damage(data, ValueError("odd"))[0] == "damaged"
    assert find_damage(data[: len(data) // 2], ValueError("odd"))[0] == "truncated"


def test_changed_pixels_of_a_png_are_found() -> None:
    data = GOOD["plain.png"]
    assert find_changed_chunk(data) is None
    position = data.index(b"IDAT") + 4
    changed = data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]
    assert find_changed_chunk(changed) == "IDAT"
    assert find_changed_chunk(GOOD["plain.jpg"]) is None
