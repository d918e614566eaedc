"""How a bulk stylization stands, as a user sees it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from pipeline.folders import BulkFolder
from pipeline.inputs.remote import CACHE
from pipeline.shards.files import Temporary
from pipeline.shards.writer import ShardWriter
from pipeline.stages.bulk_run import plan_bulk
from pipeline.stages.status import look_at_bulk
from pipeline.watch import status, tell
from tests.pipeline.odd_images import encode, picture


def look(folder: Path, *options: str) -> Result:
    """`status` of the manifest that `open_planned` wrote."""
    asked = [str(folder / "bulk.yaml"), "--out", str(folder / "runs"), *options]
    return CliRunner().invoke(status, asked)


@pytest.fixture
def bulk(open_planned: Callable[..., BulkFolder], tmp_path: Path) -> BulkFolder:
    """Five portraits in two styles and three shards each, planned; a shard of one style made."""
    (tmp_path / "in").mkdir()
    for index in range(5):
        (tmp_path / "in" / f"{index}.png").write_bytes(encode(picture(seed=index), "PNG"))
    opened = open_planned(styles=["ink.png", "oil.png"])
    plan_bulk(opened)
    commit(opened, "stylized-ink", "train-00000", {"0": "ok", "1": "changed"})
    return opened


def commit(folder: BulkFolder, column: str, shard: str, statuses: dict[str, str]) -> None:
    with ShardWriter(folder.column(column), shard, {}) as writer:
        for key, kind in statuses.items():
            row: dict[str, Any] = {"key": key, "split": "train", "seed": 0}
            if kind == "ok":
                writer.add(members={"json": b"{}"}, seconds=1.0, **row)
            else:
                writer.fail(kind=kind, message="not as it was", **row)


def test_status_of_a_bulk_stylization_is_the_same_table(bulk: BulkFolder, tmp_path: Path) -> None:
    living = Temporary(bulk.column("stylized-ink") / "train-00001.tar")
    shown = look(tmp_path)
    assert shown.exit_code == 0, shown.output
    lines = shown.output.splitlines()
    assert lines[0] == f"{bulk.path}: no snakemake is making it"
    assert lines[2].split()[:4] == ["stylized-ink", "1/3", "2/5", "1"]
    assert "1 being written on" in lines[2]
    assert lines[3].split()[:6] == ["stylized-oil", "0/3", "0/5", "0", "-", "-"]
    assert lines[4:-1] == [
        "plan: there, verified: not yet, report: not yet",
        "stylized-ink: 1 changed (first 1: not as it was)",
    ]
    living.discard()
    found = look_at_bulk(bulk)
    assert [column.missing for column in found.columns] == [3, 5]
    assert tell(found)[2].split()[:4] == ["stylized-ink", "1/3", "2/5", "1"]


def test_the_runs_folder_will_do(bulk: BulkFolder, tmp_path: Path) -> None:
    """Without the manifest, which may be elsewhere by then."""
    (tmp_path / "bulk.yaml").unlink()
    told = json.loads(CliRunner().invoke(status, [str(bulk.path), "--json"]).output)
    assert told["columns"]["stylized-ink"]["samples_left"] == 3


def test_json_of_a_bulk_stylization_counts_in_and_left(bulk: BulkFolder, tmp_path: Path) -> None:
    told = json.loads(look(tmp_path, "--json").output)
    ink, oil = (told["columns"][f"stylized-{name}"] for name in ("ink", "oil"))
    assert (ink["ok"], ink["failed"], ink["samples_left"], ink["samples_asked"]) == (1, 1, 3, 5)
    assert (oil["shards"], oil["shards_asked"], oil["samples_left"]) == (0, 3, 5)
    assert ink["views_per_second"] == pytest.approx(2 * 2)  # a second for two samples of two views
    assert oil["bytes_to_come"] == pytest.approx(5 * ink["bytes"] / 2, abs=1)
    assert (told["finetune"], told["content"]) == (None, None)
    assert list(told["artefacts"]) == ["plan", "verified", "report"]


def test_bulk_stylization_that_is_not_planned_has_no_columns(
    open_planned: Callable[..., BulkFolder], tmp_path: Path
) -> None:
    folder = open_planned()
    assert "nothing is made yet" in look(tmp_path).output
    (folder.path / CACHE).mkdir(parents=True)
    (folder.path / CACHE / "x-0.0123.tar").write_bytes(bytes(2000))
    lines = look(tmp_path).output.splitlines()
    assert lines[1:3] == [
        "content: 1 tar fetched, 2 kB",
        "plan: not yet, verified: not yet, report: not yet",
    ]
    assert "an unknown number to come" in lines[3]
    told = json.loads(look(tmp_path, "--json").output)
    assert told["content"] == {"tars": 1, "bytes": 2000}
    folder.plan_path.write_bytes(b"PAR1")
    shown = look(tmp_path)
    assert "plan.parquet: not readable as Parquet; remove it and plan again" in str(shown.exception)
