import threading

import pytest

from pipeline.shards import ahead


@pytest.mark.parametrize("number", [0, 1, ahead.TOGETHER, 5 * ahead.TOGETHER + 1])
def test_everything_in_order(number: int) -> None:
    assert [*ahead.look_ahead(str, range(number))] == [*map(str, range(number))]


def test_others_are_looked_at_meanwhile() -> None:
    """The first waits for the last."""
    number = ahead.WAITING * ahead.TOGETHER
    reached = threading.Event()

    def look(thing: int) -> bool:
        if thing == number - 1:
            reached.set()
        return thing != 0 or reached.wait(30)

    assert all(ahead.look_ahead(look, range(number)))


def test_what_is_raised_comes_in_its_place() -> None:
    last = 3 * ahead.TOGETHER

    def look(thing: int) -> int:
        if thing == last:
            raise ValueError(thing)
        return thing

    seen = ahead.look_ahead(look, range(2 * last))
    assert [next(seen) for _ in range(last)] == [*range(last)]
    with pytest.raises(ValueError, match=str(last)):
        next(seen)
