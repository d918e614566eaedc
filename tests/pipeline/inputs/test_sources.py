from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from pipeline.inputs.listing import list_content
from pipeline.inputs.sources import arrange, fingerprint
from tests.pipeline.inputs.test_listing import touch

VIEWS = st.lists(st.integers(0, 10**6), min_size=1, max_size=20, unique=True)


@given(VIEWS)
def test_views_go_round_in_the_order_of_their_numbers(numbers: list[int]) -> None:
    around, back = arrange([f"v{number}.png" for number in numbers] + ["back.jpg"])
    assert around == [f"v{number}.png" for number in sorted(numbers)]
    assert back == "back.jpg"


def test_our_own_views_are_told_from_what_lies_beside_them() -> None:
    ours = ["view_01.rgb.png", "view_00.rgb.png"]
    beside = ["view_00.mask.png", "view_00.depth.png", "reference_00.rgb.png"]
    assert arrange(ours + beside) == (sorted(ours), None)
    assert arrange(["back.png"]) == (["back.png"], None)
    assert arrange(["jpg", "back.jpg"]) == (["jpg"], "back.jpg")


def test_fingerprint_tells_changes(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "b.png")
    first = fingerprint(list_content(str(tmp_path)))
    assert first == fingerprint(list_content(str(tmp_path)))
    (tmp_path / "b.png").write_bytes(b"x")
    assert first != fingerprint(list_content(str(tmp_path)))
