"""Rates of columns; what lies in a column's folder is in test_status."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.stages.column_status import Stretch, measure_rate


def test_rates_of_few_shards() -> None:
    assert measure_rate([], 0, None) is None
    one = Stretch(1000, 100, 64)
    assert measure_rate([one], 0, None) == pytest.approx(0.64)
    assert measure_rate([one], 32, 1050) == pytest.approx(96 / 150)
    assert measure_rate([one, Stretch(1001, 101, 64)], 0, None) == pytest.approx(128 / 101)
    assert measure_rate([one, Stretch(1100, 100, 64)], 0, None) == pytest.approx(0.64)
    assert measure_rate([one], 0, 900) == pytest.approx(0.64)  # a clock that is behind
    assert measure_rate([Stretch(1000, 0, 64)], 0, None) is None
    assert measure_rate([Stretch(1000, 0, 64), Stretch(1010, 0, 64)], 0, None) == 6.4


@pytest.mark.parametrize("jobs", [1, 7])
@pytest.mark.parametrize("seconds", [3.0, 900.0])
def test_steady_jobs_have_the_rate_they_have(jobs: int, seconds: float) -> None:
    """Each job makes shards of 64 one after another, for long; before, it was ten times slower."""
    end, made = 100_000.0, []
    for job in range(jobs):
        last = end - seconds * job / jobs
        made += [Stretch(last - n * seconds, seconds, 64) for n in range(2000)]
        made += [Stretch(last - 2000 * seconds - n * 10 * seconds, seconds, 64) for n in range(50)]
    under_way = sum(64 * job / jobs for job in range(jobs))
    assert measure_rate(made, under_way, end) == pytest.approx(64 * jobs / seconds, rel=0.01)


stretches = st.lists(
    st.builds(
        Stretch,
        end=st.floats(0, 5000),
        seconds=st.floats(1, 500),
        samples=st.integers(1, 64).map(float),
    ),
    min_size=1,
    max_size=20,
)


@given(stretches, st.floats(0, 1000))
def test_rate_depends_on_neither_clock_nor_cut(made: list[Stretch], shift: float) -> None:
    rate = measure_rate(made, 0, None)
    moved = [m._replace(end=m.end + shift) for m in made]
    halves = [m._replace(samples=m.samples / 2) for m in made for _ in range(2)]
    assert measure_rate(moved, 0, None) == pytest.approx(rate)
    assert measure_rate(halves, 0, None) == pytest.approx(rate)
    assert measure_rate(made[::-1], 0, None) == pytest.approx(rate)
