"""Ranges of names, beside what webdataset makes of them."""

import braceexpand
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import PipelineError
from pipeline.inputs import ranges
from pipeline.inputs.ranges import expand_ranges, has_range

ENDS = st.integers(0, 30).flatmap(lambda n: st.integers(1, 4).map(lambda d: f"{n:0{d}d}"))
RANGES = st.tuples(ENDS, ENDS).map(lambda ends: "{" + "..".join(ends) + "}")
TEXT = st.text("ab/-.:", max_size=4)


@given(st.lists(st.tuples(TEXT, RANGES), max_size=2), TEXT)
def test_ranges_are_those_of_webdataset(parts: list[tuple[str, str]], end: str) -> None:
    text = "".join(before + range_ for before, range_ in parts) + end
    assert expand_ranges(text) == list(braceexpand.braceexpand(text))
    assert has_range(text) == bool(parts)


def test_other_braces_stay() -> None:
    for text in ("pipe:awk '{print $1,$2}' x.tar", "{a..b}", "{1..}", "{1...2}", "{-1..2}"):
        assert expand_ranges(text) == [text]
        assert not has_range(text)


def test_too_many_are_refused_before_they_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PipelineError, match=r"x-\{.*\}\.tar: 1000000000000 tars; one con"):
        expand_ranges("x-{0..999999999999}.tar")
    monkeypatch.setattr(ranges, "MOST", 6)
    assert len(expand_ranges("{0..1}{0..2}")) == 6
    with pytest.raises(PipelineError, match="8 tars"):
        expand_ranges("{0..1}{3..0}")
