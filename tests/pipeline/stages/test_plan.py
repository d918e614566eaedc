import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests import RunManifest
from manifests.run import parse_seeds
from manifests.schemas import PLAN, SCHEMA_VERSION, VERSION_KEY
from pipeline.folders import RunFolder
from pipeline.seeds import derive_seed
from pipeline.stages.plan import plan_run, plan_table

Open = Callable[..., RunFolder]
IDENTITY = ["key", "split", "seed", "instance_seed", "reference_seed", "noise_seed"]
SPLITS = st.dictionaries(
    st.sampled_from(["train", "test", "val-1"]),
    st.one_of(st.integers(1, 300), st.sampled_from(["17", "0-40", "3,17,20-29", "4294967295"])),
    min_size=1,
)  # fmt: skip


def manifest(identities: dict[str, int | str], size: int = 2, seed: int = 1) -> RunManifest:
    content = {
        "name": "planned", "seed": seed, "generator": {"source": "procedural"},
        "identities": identities, "rig": {"views": 2}, "shards": {"identities": size},
    }  # fmt: skip
    return RunManifest.model_validate(content)


def row_by_row(run: RunManifest) -> pa.Table:
    """The plan, an identity at a time: what `plan_table` must give to the byte."""
    rows = []
    for split, wanted in run.identities.items():
        seeds = parse_seeds(wanted) if isinstance(wanted, str) else None
        for index in range(run.count(split)):
            drawn = {
                f"{draw}_seed": derive_seed(run.seed, draw, split, index)
                for draw in ("instance", "reference", "noise")
            }
            own = seeds[index] if seeds else derive_seed(run.seed, "identity", split, index)
            shard = f"{split}-{index // run.shards.identities:05d}"
            key = f"{split}-{index:08d}"
            rows.append({"key": key, "split": split, "seed": own, "shard": shard} | drawn)
    metadata = {VERSION_KEY: str(SCHEMA_VERSION).encode()}
    return pa.Table.from_pylist(rows, schema=PLAN.with_metadata(metadata))


def as_parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()


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


@settings(max_examples=25, deadline=None)
@given(SPLITS, st.integers(1, 80), st.integers(0, 2**40))
def test_plan_has_the_bytes_of_one_made_row_by_row(
    identities: dict[str, int | str], size: int, seed: int
) -> None:
    run = manifest(identities, size, seed)
    assert as_parquet(plan_table(run)) == as_parquet(row_by_row(run))


def test_long_plans_have_the_same_bytes_too() -> None:
    """Several data pages, dictionaries that overflow, and shards of six digits."""
    run = manifest({"train": 100_003, "test": "0-20000"}, size=1)
    plan = plan_table(run)
    assert as_parquet(plan) == as_parquet(row_by_row(run))
    assert plan["shard"].to_pylist() == run.shard_names()
    assert plan["shard"][99_999].as_py() == "train-99999"
    assert plan["shard"][100_000].as_py() == "train-100000"


def test_more_identities_and_other_shards_change_no_identity(open_variant: Open) -> None:
    few = plan_table(open_variant().run).select(IDENTITY).to_pylist()
    changes = {"identities": {"test": 9, "train": 7, "val": 2}, "shards": {"identities": 5}}
    many = plan_table(open_variant(changes).run).select(IDENTITY).to_pylist()
    assert all(row in many for row in few)


@pytest.mark.parametrize(("before", "after"), [(3, 8), (4, 5), (99_999, 100_002)])
def test_appending_renumbers_nothing(open_variant: Open, before: int, after: int) -> None:
    """Two real plans: those that were planned keep their rows, their order and their shards."""
    plans = []
    for count in (before, after):
        folder = open_variant({"identities.train": count, "shards.identities": 1 + (before < 99)})
        assert plan_run(folder) == count + 1
        table = folder.plan
        plans.append(table.filter(pa.compute.equal(table["split"], "train")))
    assert plans[1].slice(0, before).equals(plans[0])
    names = plans[1]["shard"].to_pylist()
    assert [name for i, name in enumerate(names) if i == 0 or name != names[i - 1]] == [
        f"train-{number:05d}" for number in range(len(set(names)))
    ]


def test_parse_seeds_is_upstreams_seeds(open_variant: Open) -> None:
    plan = plan_table(open_variant({"identities.test": "17-19"}).run).to_pylist()
    assert [row["seed"] for row in plan if row["split"] == "test"] == [17, 18, 19]


@pytest.mark.parametrize("changes", [{"seed": 2}])
def test_another_run_seed_changes_all(open_variant: Open, changes: dict) -> None:
    first, second = (plan_table(open_variant(c).run)["seed"].to_pylist() for c in ({}, changes))
    assert not set(first) & set(second)


def test_planning_again_leaves_the_files_as_they_are(open_variant: Open) -> None:
    folder = open_variant()
    assert plan_run(folder) == 4
    paths = folder.plan_path, folder.path / "manifest.json"
    before = [path.stat().st_mtime_ns for path in paths]
    plan_run(folder)
    assert [path.stat().st_mtime_ns for path in paths] == before
    assert folder.plan["key"].to_pylist()[0] == "train-00000000"


def test_the_manifest_beside_the_plan_says_what_was_asked(
    open_variant: Open, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ink.png").write_bytes(b"an image")
    monkeypatch.chdir(tmp_path)
    changes = {"stylize.references.ink": {"image": "ink.png"}, "finetune.start": str(tiny_model)}
    folder = open_variant(
        {"finetune": {"steps": 2, "views": 2, "start": str(tiny_model)}} | changes
    )
    plan_run(folder)
    content = json.loads((folder.path / "manifest.json").read_text())
    again = RunManifest.model_validate(content)
    assert again.digest() == folder.run.digest()
    assert content["stylize"]["references"]["ink"]["image"] == str(tmp_path / "ink.png")
    assert content["outputs"]["depth"] == "png16"  # a default
