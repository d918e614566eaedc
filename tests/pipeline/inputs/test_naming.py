import random
import time

from hypothesis import given
from hypothesis import strategies as st

from manifests.names import LONGEST
from pipeline.inputs.naming import Named, make_keys, natural_key
from pipeline.shards.archive import KEY

NAMES = st.text(max_size=80) | st.text("ab01-_. é/", max_size=6)
ITEMS = st.lists(st.builds(Named, NAMES, st.text("xy", max_size=2)), max_size=30)


def test_people_count_so() -> None:
    names = ["view_10", "View_9", "view_1", "view_01", "view", "view_2b", "view_2", "10", "9"]
    assert sorted(names, key=natural_key) == [
        "9", "10", "view", "view_01", "view_1", "view_2", "view_2b", "View_9", "view_10"
    ]  # fmt: skip


@given(st.lists(NAMES, unique=True), st.randoms())
def test_order_is_total(names: list[str], shuffler: random.Random) -> None:
    ordered = sorted(names, key=natural_key)
    shuffled = shuffler.sample(names, len(names))
    assert sorted(shuffled, key=natural_key) == ordered


@given(st.lists(st.integers(0, 10**30), unique=True))
def test_numbers_are_in_their_order(numbers: list[int]) -> None:
    names = [f"a{number}.png" for number in numbers]
    assert sorted(names, key=natural_key) == [f"a{number}.png" for number in sorted(numbers)]


@given(ITEMS)
def test_keys_are_keys_and_differ(items: list[Named]) -> None:
    keys = make_keys(items)
    assert len(set(keys)) == len(keys) == len(items)
    assert all(KEY.fullmatch(key) and len(key) <= LONGEST for key in keys)


@given(st.lists(st.builds(Named, NAMES, st.text("xyz", max_size=3)), unique=True), st.randoms())
def test_keys_do_not_depend_on_the_order(items: list[Named], shuffler: random.Random) -> None:
    key_of = dict(zip(items, make_keys(items), strict=True))
    shuffled = shuffler.sample(items, len(items))
    assert dict(zip(shuffled, make_keys(shuffled), strict=True)) == key_of


def test_only_those_of_one_name_are_told_apart() -> None:
    items = [Named("a", "a.png"), Named("a", "a.jpg"), Named("b", "b.png"), Named("c d", "c d.png")]
    first, second, *others = make_keys(items)
    assert others == ["b", "c-d"]
    assert first.startswith("a-")
    assert second.startswith("a-")
    assert make_keys([items[0], items[0]]) == [
        make_keys(items[:2])[0],
        make_keys(items[:2])[0] + "-2",
    ]


def test_many_of_one_name_and_place_are_numbered_at_once() -> None:
    began = time.process_time()
    keys = make_keys([Named("a", "x.tar: a")] * 30_000)
    assert keys[2].endswith("-3")
    assert len(set(keys)) == 30_000
    assert time.process_time() - began < 10  # a second; with a search for each, minutes
