import errno
import fcntl
import os
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.folders import RunFolder, open_run
from pipeline.shards.files import Temporary
from pipeline.shards.writer import ShardWriter
from pipeline.stages import column_status
from pipeline.stages.column_status import STALE, ColumnStatus, is_locked
from pipeline.stages.plan import plan_run
from pipeline.stages.retry import LOCK, set_aside
from pipeline.stages.status import TAIL, FinetuneStatus, look_at_run

HEADER = "step,loss,denoising,lr,inherited_lr,seconds\r\n"


@pytest.fixture
def folder(write_manifest: Callable[..., Path], tmp_path: Path) -> RunFolder:
    """The tiny run, planned: shards train-00000 (two identities), train-00001 and test-00000."""
    opened = open_run(write_manifest({"finetune.steps": 1000}), tmp_path / "runs")
    plan_run(opened)
    return opened


def fill(
    folder: RunFolder,
    column: str,
    shard: str,
    failed: int = 0,
    seconds: float = 1.0,
    provenance: dict[str, Any] | None = None,
) -> None:
    """Commit a shard of the plan; its first `failed` samples failed."""
    with ShardWriter(folder.column(column), shard, provenance or {}) as writer:
        for index, row in enumerate(folder.rows(shard)):
            names = {name: row[name] for name in ("key", "seed", "split")}
            if index < failed:
                writer.fail(kind="non_finite", message=f"view {index}", **names)
            else:
                writer.add(members={"json": b"{}"}, seconds=seconds, **names)


def column_of(folder: RunFolder, name: str = "render") -> ColumnStatus:
    [found] = [column for column in look_at_run(folder).columns if column.name == name]
    return found


def finetune_of(folder: RunFolder) -> FinetuneStatus:
    found = look_at_run(folder).finetune
    assert found is not None
    return found


def age(folder: RunFolder, shard: str, seconds: float, column: str = "render") -> None:
    then = time.time() - seconds
    os.utime(folder.column(column) / f"{shard}.parquet", (then, then))


def test_run_that_is_not_begun_has_nothing(
    write_manifest: Callable[..., Path], tmp_path: Path
) -> None:
    found = look_at_run(open_run(write_manifest(), tmp_path / "runs"))
    assert (found.started, found.locked, found.bytes, found.fits) == (False, False, 0, None)
    asked = {c.name: (c.shards_asked, c.samples_asked, c.missing) for c in found.columns}
    assert asked == {
        "render": (3, 4, 4),
        "style-statue": (3, 4, 4),
        "stylized-statue": (1, 1, 1),
    }
    assert found.finetune == FinetuneStatus(2, 0, None, None, None, False)
    assert not any(artefact.there for artefact in found.artefacts.values())
    assert not (tmp_path / "runs").exists()


def test_shards_samples_and_bytes_are_those_on_the_disk(folder: RunFolder) -> None:
    fill(folder, "render", "train-00000", failed=1)
    fill(folder, "render", "test-00000")
    column = column_of(folder)
    assert (column.shards, column.shards_asked, column.samples_asked) == (2, 3, 4)
    assert column.count.statuses == {"ok": 2, "non_finite": 1}
    assert column.count.examples == {"non_finite": "train-00000000: view 0"}
    assert column.missing == 1
    assert column.bytes == sum(p.stat().st_size for p in folder.column("render").iterdir())
    assert column_of(folder, "style-statue").shards == 0


def test_latents_are_of_the_train_split(
    write_manifest: Callable[..., Path], tmp_path: Path
) -> None:
    changes = {"finetune.start": "demo", "finetune.cache_latents": True}
    found = look_at_run(open_run(write_manifest(changes), tmp_path / "runs"))
    asked = {column.name: column.samples_asked for column in found.columns}
    assert (asked["latents-render"], asked["latents-style-statue"]) == (3, 3)


def test_nothing_is_written(folder: RunFolder) -> None:
    fill(folder, "render", "train-00000", failed=1)
    (folder.path / LOCK).touch()
    Temporary(folder.column("render") / "test-00000.tar").sync()
    files = {path: path.stat().st_mtime_ns for path in folder.path.rglob("*")}
    look_at_run(folder)
    assert {path: path.stat().st_mtime_ns for path in folder.path.rglob("*")} == files


def test_living_and_dead_writers_are_told_apart(folder: RunFolder) -> None:
    column = folder.column("render")
    column.mkdir()
    living, silent = (Temporary(column / f"{s}.tar") for s in ("train-00000", "test-00000"))
    living.write(bytes(300))
    then = time.time() - STALE - 60
    os.utime(silent.path, (then, then))
    (column / ".train-00001.tar.node-7.cluster.org.123.0badcafe.tmp").write_bytes(bytes(70))
    Temporary(column / "train-00000.parquet")
    (column / ".train-00000.tar.tmp").touch()
    found = {writing.shard: writing for writing in column_of(folder).writing}
    assert found.keys() == {"train-00000", "train-00001", "test-00000"}
    assert {name: writing.alive for name, writing in found.items()} == {
        "train-00000": True,
        "train-00001": False,
        "test-00000": False,
    }
    assert found["train-00001"].host == "node-7.cluster.org"
    assert (found["train-00000"].host, found["train-00000"].bytes) == (socket.gethostname(), 300)
    assert found["test-00000"].quiet == pytest.approx(STALE + 60, abs=10)
    assert look_at_run(folder).bytes == 370
    living.discard()
    silent.discard()


def test_damaged_shards_are_not_done(folder: RunFolder) -> None:
    for shard in folder.run.shard_names():
        fill(folder, "render", shard)
    column = folder.column("render")
    (column / "train-00000.idx").unlink()
    os.truncate(column / "train-00001.tar", 512)
    os.truncate(column / "test-00000.parquet", 100)
    found = column_of(folder)
    assert (found.shards, found.count.total, found.samples_per_second) == (0, 0, None)
    for damaged, told in zip(
        found.damaged,
        ("train-00000.idx: missing", "train-00001.tar: 512 bytes, 10240 were", "not readable as P"),
        strict=True,
    ):
        assert told in damaged


def test_set_aside_shards_are_to_be_made_again(folder: RunFolder) -> None:
    fill(folder, "render", "train-00000", failed=1)
    fill(folder, "render", "test-00000")
    set_aside(folder.column("render"), ["train-00000"])
    found = column_of(folder)
    assert (found.shards, found.set_aside, found.count.failed, found.missing) == (1, 1, 0, 3)


def test_rate_and_what_is_left_follow_from_commits(folder: RunFolder) -> None:
    fill(folder, "render", "train-00000", seconds=100)  # two samples
    age(folder, "train-00000", 300)
    found = column_of(folder)
    assert found.samples_per_second == pytest.approx(1 / 100)
    assert found.seconds_left == pytest.approx(200, rel=0.01)
    fill(folder, "render", "train-00001", seconds=100)
    age(folder, "train-00001", 200)
    found = column_of(folder)
    assert found.samples_per_second == pytest.approx(3 / 300, rel=0.01)
    for shard in ("train-00000", "train-00001"):
        age(folder, shard, 5000)
    found = column_of(folder)
    assert found.samples_per_second == pytest.approx(3 / 200, rel=0.01)
    assert found.seconds_left is None  # nobody is at it


def test_shard_under_way_counts_by_its_bytes(folder: RunFolder) -> None:
    fill(folder, "render", "train-00000", seconds=100)
    age(folder, "train-00000", 100)
    writing = Temporary(folder.column("render") / "train-00001.tar")
    writing.write(bytes(column_of(folder).bytes // 4))  # half a sample
    found = column_of(folder)
    assert found.samples_per_second == pytest.approx(2.5 / 300, rel=0.1)
    assert found.seconds_left == pytest.approx(1.5 * 300 / 2.5, rel=0.1)
    per_sample = found.bytes / 2
    assert found.bytes_to_come == pytest.approx(1.5 * per_sample, abs=2)
    writing.discard()


def test_kept_samples_were_not_made_now(folder: RunFolder) -> None:
    kept = {"kept": {"samples": 1, "provenance": {}}}
    fill(folder, "render", "train-00000", seconds=100, provenance=kept)
    assert column_of(folder).samples_per_second == pytest.approx(1 / 100)
    kept["kept"]["samples"] = 2  # and what was tried again failed again
    fill(folder, "render", "train-00000", seconds=100, provenance=kept)
    assert column_of(folder).samples_per_second is None


def write_losses(folder: RunFolder, text: str) -> None:
    folder.checkpoints.mkdir(exist_ok=True)
    (folder.checkpoints / "loss.csv").write_bytes(text.encode())


def line(step: int, seconds: float = 2.0) -> str:
    return f"{step},{1 / (step + 1)},0.1,1e-4,1e-5,{seconds}\r\n"


@pytest.mark.parametrize(
    "rest", ["", "2", "2,0.3,0.1,1e-4,1e-5", "2,0.3,0.1,1e-4,1e-5,0.00001", "2,0.3\r\n", "\0\0\r\n"]
)
def test_finetune_is_at_its_last_whole_row(folder: RunFolder, rest: str) -> None:
    write_losses(folder, HEADER + line(0, 3.0) + line(1, 1.0) + rest)
    assert finetune_of(folder) == FinetuneStatus(1000, 2, 0.5, 0.5, 998 / 0.5, False)


@pytest.mark.parametrize(
    "text", ["", "step", HEADER, "what,is\r\n1,2\r\n", HEADER + "0,nan,,,,\r\n"]
)
def test_finetune_without_a_row_is_at_its_beginning(folder: RunFolder, text: str) -> None:
    write_losses(folder, text)
    assert finetune_of(folder) == FinetuneStatus(1000, 0, None, None, None, False)


def test_finetune_of_many_steps_has_the_rate_of_the_last(folder: RunFolder) -> None:
    rows = [line(step, 9.0) for step in range(4000)] + [
        line(step, 0.5) for step in range(4000, 4100)
    ]
    write_losses(folder, HEADER + "".join(rows))
    assert (folder.checkpoints / "loss.csv").stat().st_size > 2 * TAIL
    found = finetune_of(folder)
    assert (found.steps, found.steps_per_second) == (4100, pytest.approx(2.0))


def test_finetune_that_stopped_or_is_done_has_nothing_left(folder: RunFolder) -> None:
    write_losses(folder, HEADER + line(0))
    then = time.time() - 5000
    os.utime(folder.checkpoints / "loss.csv", (then, then))
    assert finetune_of(folder).seconds_left is None
    (folder.path / "stylizer").mkdir()
    (folder.path / "stylizer" / "config.json").touch()
    assert not finetune_of(folder).saved
    (folder.path / "stylizer" / "model.safetensors").touch()
    os.utime(folder.checkpoints / "loss.csv")
    assert finetune_of(folder).saved
    assert finetune_of(folder).seconds_left is None


def test_artefacts_are_stale_when_a_shard_is_newer(folder: RunFolder) -> None:
    fill(folder, "render", "train-00000")
    for path in (folder.metrics_path, folder.verified_path):
        path.touch()
    age(folder, "train-00000", 60)
    artefacts = look_at_run(folder).artefacts
    there = {name: (one.there, one.stale) for name, one in artefacts.items()}
    assert there == {
        "plan": (True, False),
        "metrics": (True, False),
        "verified": (True, False),
        "report": (False, False),
    }
    age(folder, "train-00000", -60)
    artefacts = look_at_run(folder).artefacts
    assert [name for name, one in artefacts.items() if one.stale] == ["verified"]


def test_bytes_to_come_are_estimated_and_compared(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert look_at_run(folder).bytes_to_come is None
    fill(folder, "render", "train-00000")
    found = look_at_run(folder)
    whole = found.columns[0].bytes
    coming = [whole, 2 * whole, -(-whole // 2)]
    assert [column.bytes_to_come for column in found.columns] == coming
    assert found.bytes_to_come == sum(coming)
    assert found.fits is True
    for free, fits in ((sum(coming), True), (sum(coming) - 1, False)):
        usage = SimpleNamespace(free=free)
        monkeypatch.setattr(shutil, "disk_usage", lambda _, usage=usage: usage)
        assert look_at_run(folder).fits is fits


def test_lock_of_a_snakemake_is_seen_and_not_kept(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert look_at_run(folder).locked is False
    file = os.open(folder.path / LOCK, os.O_CREAT | os.O_WRONLY)  # as the Snakefile does
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert look_at_run(folder).locked is True
    os.close(file)
    assert look_at_run(folder).locked is False
    with (folder.path / LOCK).open("w") as again:
        fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert is_locked(folder.path / LOCK) is None
    monkeypatch.setattr(os, "open", refuse)
    assert is_locked(folder.path / LOCK) is None


def test_shard_that_goes_while_one_looks_is_not_done(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(folder, "render", "train-00000")
    read = column_status.read_file

    def read_late(path: Path) -> bytes:
        path.unlink()
        return read(path)

    monkeypatch.setattr(column_status, "read_file", read_late)
    found = column_of(folder)
    assert (found.shards, found.damaged) == (0, [])
