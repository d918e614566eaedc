"""Failed samples are tried again, and only these; whatever is killed, nothing is lost."""

import errno
import fcntl
import itertools
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pipeline.stages.samples as samples_stage
from pipeline.errors import PipelineError
from pipeline.shards import ShardError
from pipeline.shards.indexes import write_wids
from pipeline.shards.records import read_commit, read_records
from pipeline.shards.writer import ShardWriter, is_committed
from pipeline.stages.retry import (
    ASIDE,
    LOCK,
    drop_set_aside,
    find_failed,
    find_set_aside,
    hold_run,
    set_aside,
)
from pipeline.stages.samples import Failure, Made, write_samples

NAME = "train-00000"
ROWS = [{"key": f"train-{i:08d}", "seed": i, "split": "train"} for i in range(6)]


class Killed(BaseException):
    """What no code catches."""


def kill(*_: Any) -> None:
    raise Killed


class Stage:
    """A stage whose samples are a few bytes; some fail. It counts what it computes."""

    def __init__(self, failing: set[int], made_of: str = "this"):
        self.failing, self.made_of = failing, made_of
        self.computed: list[int] = []

    def make(self, rows: list[dict[str, Any]]) -> Iterator[Made | Failure]:
        for row in rows:
            seed = row["seed"]
            self.computed.append(seed)
            if seed in self.failing:
                yield Failure(row, "non_finite", f"seed {seed}")
            else:
                members = {"view_00.rgb.png": bytes([seed]) * (99 * seed + 1), "json": b"{}"}
                yield Made(row, lambda members=members: members, float(seed))

    def write(self, column: Path) -> None:
        provenance = {"run": self.made_of, "threads": len(self.computed)}
        write_samples(column, NAME, provenance, ROWS, self.make, 2)


@pytest.fixture
def column(tmp_path: Path) -> Path:
    """One shard, in which samples 1 and 4 failed."""
    Stage({1, 4}).write(tmp_path / "render")
    return tmp_path / "render"


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The tar and the index of the shard where nothing fails."""
    folder = tmp_path_factory.mktemp("clean")
    Stage(set()).write(folder)
    return content(folder)


def content(column: Path) -> dict[str, bytes]:
    return {e: (column / f"{NAME}.{e}").read_bytes() for e in ("tar", "idx")}


@contextmanager
def killed_at(step: int, links: bool) -> Iterator[None]:
    """Kills at the given change to a folder from here on; `links` False: none can be made."""
    steps = itertools.count()

    def counted(change: Callable[..., None]) -> Callable[..., None]:
        def call(*args: Any, **kwargs: Any) -> None:
            if next(steps) == step:
                raise Killed
            change(*args, **kwargs)

        return call

    def refuse(*_: Any) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "link", counted(os.link if links else refuse))
        patch.setattr(os, "replace", counted(os.replace))
        patch.setattr(Path, "unlink", counted(Path.unlink))
        yield


def test_only_what_failed_is_computed(column: Path, clean: dict[str, bytes]) -> None:
    before = {row["key"]: row for row in read_records(column / f"{NAME}.parquet")[0].to_pylist()}
    write_wids(column)
    set_aside(column, [NAME])
    assert [path.name for path in column.iterdir()] == [ASIDE]
    assert sorted(p.name for p in (column / ASIDE).iterdir()) == [f"{NAME}.parquet", f"{NAME}.tar"]
    again = Stage(set())
    again.write(column)
    assert again.computed == [1, 4]
    assert content(column) == clean
    assert not (column / ASIDE).exists()
    rows, commit = read_records(column / f"{NAME}.parquet")
    for row in rows.to_pylist():  # a kept sample's row says what it said, but for its place
        if before[row["key"]]["status"] == "ok":
            assert row | {"offset": 0} == before[row["key"]] | {"offset": 0}
    old = {"run": "this", "threads": 0}
    assert commit.provenance == old | {"kept": {"samples": 4, "provenance": old}}


def test_what_fails_again_is_the_same_row_and_keeps_who_made_what(column: Path) -> None:
    rows = read_records(column / f"{NAME}.parquet")[0]
    tar = content(column)
    for _ in range(3):
        set_aside(column, [NAME])
        again = Stage({1, 4})
        again.computed = [9] * 5  # another number of threads
        again.write(column)
        assert again.computed[5:] == [1, 4]
        assert read_records(column / f"{NAME}.parquet")[0].equals(rows)
        assert content(column) == tar
    made_by = {"samples": 4, "provenance": {"run": "this", "threads": 0}}
    assert read_commit(column / f"{NAME}.parquet").provenance["kept"] == made_by
    set_aside(column, [NAME])
    Stage({4}).write(column)
    set_aside(column, [NAME])
    Stage(set()).write(column)
    kept = read_commit(column / f"{NAME}.parquet").provenance["kept"]
    assert kept["samples"] == 5
    assert kept["provenance"]["kept"] == made_by


@settings(max_examples=60, deadline=None)
@given(
    failing=st.sets(st.integers(0, 5), min_size=1),
    step=st.integers(0, 12),
    links=st.booleans(),
    again=st.booleans(),
)
def test_a_kill_at_any_point_loses_nothing(
    clean: dict[str, bytes], failing: set[int], step: int, links: bool, again: bool
) -> None:
    with tempfile.TemporaryDirectory() as base:
        column = Path(base)
        Stage(failing).write(column)
        try:
            with killed_at(step, links):
                set_aside(column, [NAME])
        except Killed:
            pass
        if (column / f"{NAME}.parquet").exists():  # never beside a tar that is not there
            assert is_committed(column, NAME)
            again = True
        else:
            assert find_set_aside(column) == [NAME]
        if again:
            set_aside(column, find_failed(column).shards)
            assert {path.name for path in column.iterdir()} == {ASIDE}
        stage = Stage(set())
        stage.write(column)
        assert stage.computed == sorted(failing)
        assert content(column) == clean
        assert not (column / ASIDE).exists()


@pytest.mark.parametrize("step", range(8))
def test_outputs_that_snakemake_removes_are_not_needed(column: Path, step: int) -> None:
    """Before a job, Snakemake deletes what it is to make; the second name of the tar stays."""
    try:
        with killed_at(step, links=True):
            set_aside(column, [NAME])
    except Killed:
        pass
    if not (column / f"{NAME}.parquet").exists():
        for extension in ("tar", "idx"):
            (column / f"{NAME}.{extension}").unlink(missing_ok=True)
        again = Stage(set())
        again.write(column)
        assert again.computed == [1, 4]
    else:
        assert step < 4  # nothing has moved


def test_stage_killed_at_work_loses_nothing(column: Path, clean: dict[str, bytes]) -> None:
    set_aside(column, [NAME])
    stage = Stage(set())
    for place, name in ((Stage, "make"), (samples_stage, "drop_set_aside")):
        assert find_set_aside(column) == [NAME]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(place, name, kill)
            with pytest.raises(Killed):
                stage.write(column)
        if place is Stage:
            (column / f"{NAME}.tar").write_bytes(b"of a job that was killed before its Parquet")
            set_aside(column, [])
    assert stage.computed == [1, 4]
    assert content(column) == clean
    assert (column / ASIDE).exists()
    assert find_set_aside(column) == []
    set_aside(column, [])
    assert not (column / ASIDE).exists()
    assert content(column) == clean


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-700])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[1100] ^= 1  # of the first sample's picture, or of the first rows
    path.write_bytes(data)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1536])


@pytest.mark.parametrize(
    ("extension", "damage", "computed", "told"),
    [
        ("parquet", cut, [0, 1, 2, 3, 4, 5], "not readable as Parquet"),
        ("parquet", flip, [0, 1, 2, 3, 4, 5], "all its samples are made again"),
        (
            "tar",
            Path.unlink,
            [0, 1, 2, 3, 4, 5],
            "4 of 4 samples damaged and made again, the",
        ),
        ("tar", flip, [0, 1, 4], "1 of 4 samples damaged and made again, the first: .retry/tr"),
        ("tar", cut_short, [0, 1, 2, 3, 4, 5], "train-00000000: cut off"),
    ],
)
def test_damaged_samples_are_made_again(
    column: Path,
    clean: dict[str, bytes],
    capsys: pytest.CaptureFixture[str],
    extension: str,
    damage: Callable[[Path], None],
    computed: list[int],
    told: str,
) -> None:
    set_aside(column, [NAME])
    damage(column / ASIDE / f"{NAME}.{extension}")
    again = Stage(set())
    capsys.readouterr()
    again.write(column)
    [line] = [x for x in capsys.readouterr().err.splitlines() if x.startswith("diffstyle360: ")]
    assert line.startswith(f"diffstyle360: render/{NAME}, set aside: ")
    assert told in line
    assert again.computed == computed
    assert content(column) == clean
    assert not (column / ASIDE).exists()


def test_samples_made_of_something_else_are_not_kept(
    column: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    set_aside(column, [NAME])
    other = Stage(set(), made_of="that")
    other.write(column)
    assert len(other.computed) == len(ROWS)
    assert "was made of something else than now" in capsys.readouterr().err
    assert "kept" not in read_commit(column / f"{NAME}.parquet").provenance


def test_sample_damaged_while_it_is_copied_stops_the_stage(column: Path) -> None:
    set_aside(column, [NAME])
    stage = Stage(set())

    def make(rows: list[dict[str, Any]]) -> Iterator[Made | Failure]:
        cut_short(column / ASIDE / f"{NAME}.tar")
        return Stage.make(stage, rows)

    with pytest.raises(PipelineError, match="run the stage again, it makes this sample anew"):
        write_samples(column, NAME, {"run": "this", "threads": 0}, ROWS, make, 1)
    assert not (column / f"{NAME}.parquet").exists()
    stage.write(column)
    assert is_committed(column, NAME)


def test_found_are_shards_with_failures_of_a_kind(tmp_path: Path) -> None:
    for number, kinds in enumerate([[], ["cannot_encode"], ["non_finite", "cannot_encode"]]):
        rows = [{"key": f"k{number}-{i}", "seed": i, "split": "train"} for i in range(3)]
        made = [Failure(row, kind, "why") for row, kind in zip(rows, kinds, strict=False)]
        made += list(Stage(set()).make(rows[len(kinds) :]))
        write_samples(tmp_path, f"train-{number:05d}", {}, rows, lambda _, m=made: m, 1)
    found = find_failed(tmp_path)
    assert found.shards == ["train-00001", "train-00002"]
    assert found.count.failures == {"cannot_encode": 2, "non_finite": 1}
    assert found.count.examples["cannot_encode"] == "k1-0: why"
    assert find_failed(tmp_path, ["non_finite"]).shards == ["train-00002"]
    assert find_failed(tmp_path, ["missing"]).shards == []
    assert find_failed(tmp_path / "none").shards == []
    cut(tmp_path / "train-00001.parquet")
    with pytest.raises(PipelineError, match=r"00001.parquet: not readable as P.*remove this file"):
        find_failed(tmp_path)


def test_folder_that_refuses_is_one_line(column: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(ShardError, match=r"\.retry: cannot write: No space left on device; free"):
        set_aside(column, [NAME])
    assert is_committed(column, NAME)


def test_nothing_is_dropped_of_others(column: Path) -> None:
    set_aside(column, [NAME])
    drop_set_aside(column, "train-00001")
    assert find_set_aside(column) == [NAME]
    drop_set_aside(column.parent / "none", NAME)


def test_run_is_held_alone(tmp_path: Path) -> None:
    with hold_run(tmp_path), (tmp_path / LOCK).open("w") as other:
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with pytest.raises(PipelineError, match="a snakemake is making this run; wait"):
            hold_run(tmp_path).__enter__()
    with (tmp_path / LOCK).open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_failed_shards_come_by_number_beyond_five_digits(tmp_path: Path) -> None:
    names = ["train-20000", "train-99999", "train-100000"]
    for name in names:
        with ShardWriter(tmp_path, name, {}) as writer:
            writer.fail(key=name, split="train", seed=0, kind="missing", message="gone")
    found = find_failed(tmp_path)
    assert found.shards == names
    assert found.count.examples == {"missing": "train-20000: gone"}
    set_aside(tmp_path, names)
    assert find_set_aside(tmp_path) == names
