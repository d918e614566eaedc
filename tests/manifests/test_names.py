import re
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from manifests.names import LONGEST, clean, style_name

NAMES = st.text(max_size=80) | st.text("ab01-_. é/", max_size=6)


def test_a_name_is_cleaned_legibly() -> None:
    assert clean("Zoë Müller (2).final") == "Zoe-Muller-2-final"
    assert clean("-as_it-is-") == "-as_it-is-"
    assert clean("肖像") == "unnamed"
    assert clean("a/b/00017") == "a-b-00017"


@given(NAMES)
def test_cleaning_twice_is_cleaning_once(name: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9_-]+", clean(name))
    assert clean(clean(name)) == clean(name)
    assert len(clean(name)) <= LONGEST


def test_a_style_is_called_after_its_file() -> None:
    assert style_name(Path("styles/Oil on Canvas.jpg")) == "oil-on-canvas"
