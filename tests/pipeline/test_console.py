import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import console


@given(st.floats(0, 1e19))
def test_shown_bytes_are_near(number: float) -> None:
    value, unit = console.show_bytes(number).split()
    assert float(value) * 1000 ** console.UNITS.index(unit) == pytest.approx(number, rel=0.006)
    assert float(value) < 1000 or unit == "PB"


def test_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(console.progress(iter("abc"), "letters", 3)) == ["a", "b", "c"]
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("letters: 3/3, ")


def test_counting_goes_on_after_earlier_steps(capsys: pytest.CaptureFixture[str]) -> None:
    with console.follow("train", 10) as show:
        show(8, 0.5)
        show(9, 0.25)
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("train: 10/10, ")
    assert line.endswith(", loss 0.2500")


def test_a_bar_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert list(console.progress(range(3), "numbers", 3)) == [0, 1, 2]
    assert "numbers:" in capsys.readouterr().err
