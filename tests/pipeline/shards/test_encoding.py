import threading
import time

import pytest

from pipeline.shards.encoding import encode_ahead


def test_results_keep_the_order_of_items():
    def slow_first(item: int) -> int:
        time.sleep(0.02 if item % 3 == 0 else 0)
        return item * item

    assert list(encode_ahead(slow_first, range(20), 3, 4)) == [i * i for i in range(20)]


@pytest.mark.parametrize("ahead", [0, 1, 5])
def test_items_are_taken_at_most_so_far_ahead(ahead):
    taken = 0

    def items():
        nonlocal taken
        for _ in range(20):
            taken += 1
            yield taken

    for done, _ in enumerate(encode_ahead(abs, items(), 2, ahead)):
        assert taken <= done + 1 + ahead
    assert taken == 20


def test_work_runs_beside_the_caller():
    started = threading.Event()

    def items():
        yield 0
        assert started.wait(10), "the first item is encoded while the second is rendered"
        yield 1

    def encode(item: int) -> int:
        started.set()
        return item

    assert list(encode_ahead(encode, items(), 1, 1)) == [0, 1]


def test_an_error_of_the_function_comes_at_its_place():
    def fail_at_three(item: int) -> int:
        if item == 3:
            raise ValueError("three")
        return item

    seen = []
    with pytest.raises(ValueError, match="three"):
        seen.extend(encode_ahead(fail_at_three, range(9), 2, 8))
    results = encode_ahead(fail_at_three, range(9), 2, 8)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(results)


def test_an_error_of_the_items_comes_after_the_results_before_it():
    def items():
        yield from (0, 1)
        raise RuntimeError("render")

    results = encode_ahead(abs, items(), 2, 8)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(RuntimeError, match="render"):
        next(results)


def test_closing_early_drops_what_has_not_started():
    calls = []

    def encode(item: int) -> int:
        calls.append(item)
        time.sleep(0.01)
        return item

    results = encode_ahead(encode, range(1000), 1, 100)
    next(results)
    results.close()
    assert len(calls) < 100
    assert not [t for t in threading.enumerate() if t.name.startswith("encode")]
