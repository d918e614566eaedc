from collections.abc import Callable

import pytest

from pipeline.folders import RunFolder
from pipeline.stages.plan import plan_run, plan_table

Open = Callable[..., RunFolder]
IDENTITY = ["key", "split", "seed", "instance_seed", "reference_seed", "noise_seed"]


def test_plan_names_everything_once(open_variant: Open) -> None:
    run = open_variant().run
    plan = plan_table(run).to_pylist()
    assert [row["key"] for row in plan] == [
        "train-00000000", "train-00000001", "train-00000002", "test-00000000",
    ]  # fmt: skip
    assert [row["shard"] for row in plan] == [
        "train-00000", "train-00000", "train-00001", "test-00000",
    ]  # fmt: skip
    assert sorted({row["shard"] for row in plan}) == sorted(run.shard_names())
    seeds = [row[name] for row in plan for name in IDENTITY[2:]]
    assert len(set(seeds)) == len(seeds)


def test_more_identities_and_other_shards_change_no_identity(open_variant: Open) -> None:
    few = plan_table(open_variant().run).select(IDENTITY).to_pylist()
    changes = {"identities": {"test": 9, "train": 7, "val": 2}, "shards": {"identities": 5}}
    many = plan_table(open_variant(changes).run).select(IDENTITY).to_pylist()
    assert all(row in many for row in few)


def test_parse_seeds_is_upstreams_seeds(open_variant: Open) -> None:
    plan = plan_table(open_variant({"identities.test": "17-19"}).run).to_pylist()
    assert [row["seed"] for row in plan if row["split"] == "test"] == [17, 18, 19]


@pytest.mark.parametrize("changes", [{"seed": 2}])
def test_another_run_seed_changes_all(open_variant: Open, changes: dict) -> None:
    first, second = (plan_table(open_variant(c).run)["seed"].to_pylist() for c in ({}, changes))
    assert not set(first) & set(second)


def test_planning_again_leaves_the_file_as_it_is(open_variant: Open) -> None:
    folder = open_variant()
    assert plan_run(folder) == 4
    before = folder.plan_path.stat()
    plan_run(folder)
    assert folder.plan_path.stat().st_mtime_ns == before.st_mtime_ns
    assert folder.plan["key"].to_pylist()[0] == "train-00000000"
