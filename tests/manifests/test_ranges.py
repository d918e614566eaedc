"""Shards by number: what --config shards=0-9999 means, for runs of any size."""

import itertools
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests import ManifestError, RunManifest, load_run
from manifests.ranges import count_shards, parse_shard_range, select_shards, shard_order

Write = Callable[..., Path]
PAIRS = st.lists(st.tuples(st.integers(0, 300), st.integers(0, 40)), min_size=1, max_size=6)


@pytest.fixture
def run(write_manifest: Write) -> RunManifest:
    return load_run(write_manifest({"identities": {"train": 21, "test": 5}}))  # 11 and 3 shards


def numbers_of(ranges: tuple[range, ...]) -> list[int]:
    return [number for part in ranges for number in part]


@given(PAIRS)
def test_ranges_are_the_union_of_their_parts(pairs: list[tuple[int, int]]) -> None:
    text = ",".join(f"{first}-{first + more}" if more else f"{first}" for first, more in pairs)
    ranges = parse_shard_range(text)
    union = {n for first, more in pairs for n in range(first, first + more + 1)}
    assert numbers_of(ranges) == sorted(union)
    assert all(one.stop < other.start for one, other in itertools.pairwise(ranges))
    shown = ",".join(f"{part.start}-{part[-1]}" for part in ranges)
    assert parse_shard_range(shown) == ranges


def test_a_plain_number_is_what_snakemake_makes_of_one() -> None:
    assert parse_shard_range(7) == parse_shard_range("7") == (range(7, 8),)
    assert parse_shard_range("0-9999, 12000") == (range(10_000), range(12_000, 12_001))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "neither a number of a shard nor a range"),
        ("1,", "neither a number of a shard nor a range"),
        ("0-", "neither a number of a shard nor a range"),
        ("-3", "neither a number of a shard nor a range"),
        (-3, "neither a number of a shard nor a range"),
        ("a-b", "neither a number of a shard nor a range"),
        ("²", "neither a number of a shard nor a range"),
        ("9-3", "'9-3' is empty; give the lower number first"),
        ("0-9999999999", "fewer than 1000000000 shards"),
        (1.5, "1.5 is neither a number nor ranges"),
        (True, "True is neither a number nor ranges"),
        (["0"], "neither a number nor ranges"),
    ],
)
def test_what_is_no_range_is_one_line_that_names_the_key(text: object, message: str) -> None:
    with pytest.raises(ManifestError) as caught:
        parse_shard_range(text)
    assert str(caught.value).startswith("shards: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_shards_of_all_splits_by_their_number(run: RunManifest) -> None:
    assert [count_shards(run, split) for split in ("train", "test")] == [11, 3]
    assert select_shards(run, parse_shard_range("2-3")) == [
        "train-00002", "train-00003", "test-00002",
    ]  # fmt: skip
    assert select_shards(run, parse_shard_range("2-3"), "test") == ["test-00002"]
    assert select_shards(run, parse_shard_range("9-99")) == ["train-00009", "train-00010"]
    assert select_shards(run, parse_shard_range("9-99"), "test") == []


def test_a_range_without_any_shard_is_refused(run: RunManifest) -> None:
    with pytest.raises(ManifestError, match=r"shards: 11-20: no shard .* from 0 to 10"):
        select_shards(run, parse_shard_range("0-3,11-20"))
    with pytest.raises(ManifestError, match="shards: 11: no shard"):
        select_shards(run, parse_shard_range("11"), "test")


@given(st.integers(1, 400), st.integers(1, 5), st.integers(0, 120))
def test_cuts_add_up_to_all_shards(identities: int, size: int, cut: int) -> None:
    run = sized(identities, size)
    last = count_shards(run, "train") - 1
    cut = min(cut, last)
    parts = [f"0-{cut}"] + ([f"{cut + 1}-{last}"] if cut < last else [])
    names = [name for part in parts for name in select_shards(run, parse_shard_range(part))]
    assert names == run.shard_names()


def test_names_go_on_beyond_five_digits() -> None:
    run = sized(10_000_000, 1)
    began = time.perf_counter()
    names = select_shards(run, parse_shard_range("3,99999-100000,9999999"))
    assert time.perf_counter() - began < 0.5  # not ten million names
    assert names == ["train-00003", "train-99999", "train-100000", "train-9999999"]
    assert sorted(names) != names
    assert sorted(names, key=shard_order) == names


def test_names_are_those_of_the_run() -> None:
    run = sized(100_003, 1)
    names = run.shard_names()
    assert names[:1] + names[99_999:100_001] == ["train-00000", "train-99999", "train-100000"]
    assert names == select_shards(run, parse_shard_range(f"0-{len(names) - 1}"))
    assert sorted(reversed(names), key=shard_order) == names


@pytest.mark.parametrize("name", ["train", "train-3", "-00003", "train-00003.tar", "train-0000³"])
def test_other_names_have_no_place_in_the_order(name: str) -> None:
    with pytest.raises(ValueError, match="not the name of a run's shard"):
        shard_order(name)


def sized(identities: int, size: int) -> RunManifest:
    content = {
        "name": "sized", "seed": 0, "generator": {"source": "procedural"}, "rig": {"views": 2},
        "identities": {"train": identities}, "shards": {"identities": size},
    }  # fmt: skip
    return RunManifest.model_validate(content)
