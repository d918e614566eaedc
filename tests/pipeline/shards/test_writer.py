import errno
import os
import resource
import signal
import subprocess
import sys
import tarfile
import tempfile
import textwrap
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.shards import ShardError
from pipeline.shards.reader import Column
from pipeline.shards.records import read_records
from pipeline.shards.verify import verify_shard
from pipeline.shards.writer import ShardWriter, is_committed

NAME = "train-00000"
FILES = [f"{NAME}.idx", f"{NAME}.parquet", f"{NAME}.tar"]
SUFFIX = st.from_regex(r"[a-z0-9_-]{1,6}(\.[a-z0-9_-]{1,6}){0,2}", fullmatch=True)
NAMES = st.lists(SUFFIX.filter("json".__ne__), max_size=3, unique=True)
SAMPLES = NAMES.flatmap(
    lambda names: st.lists(
        st.tuples(*[st.binary(max_size=600)] * len(names)).map(
            lambda data: dict(zip(names, data, strict=True)) | {"json": b"{}"}
        ),
        max_size=4,
    )
)


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def add(shard: ShardWriter, key: str, members: dict[str, bytes], seed: int = 0) -> None:
    shard.add(key, members, seed=seed, split="train", seconds=0.0)


@settings(max_examples=20)  # each syncs the disk
@given(SAMPLES)
def test_what_is_written_comes_back(samples):
    with tempfile.TemporaryDirectory() as folder:
        with ShardWriter(folder, NAME, {}) as shard:
            for i, members in enumerate(samples):
                add(shard, f"k{i}", members)
        assert listing(Path(folder)) == FILES
        column = Column(folder)
        assert column.keys == [f"k{i}" for i in range(len(samples))]
        for i, members in enumerate(samples):
            assert column.read(f"k{i}", decoded=False, check=True) == members
        with tarfile.open(Path(folder, f"{NAME}.tar")) as tar:
            infos = tar.getmembers()
        expected = [f"k{i}.{s}" for i, members in enumerate(samples) for s in members]
        assert [info.name for info in infos] == expected
        assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in infos} <= {
            (0, 0, 0, "", "", 0o444)
        }


def test_two_writes_make_the_same_bytes(tmp_path, write_shard):
    for folder in ("a", "b"):
        write_shard(tmp_path / folder, NAME, range(3), failed=(1,))
    for name in FILES:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_sample_has_the_same_bytes_in_any_shard(tmp_path, write_shard):
    write_shard(tmp_path, "train-00000", range(4))
    write_shard(tmp_path, "train-00001", range(0))
    alone = tmp_path / "alone"
    write_shard(alone, "train-00000", range(2, 3))
    samples = [read_records(f / f"{NAME}.parquet")[0].to_pylist() for f in (tmp_path, alone)]
    assert samples[0][2]["sha256"] == samples[1][0]["sha256"]


def test_failures_are_rows(column):
    table, commit = read_records(column / f"{NAME}.parquet")
    ok, failed, last = table.to_pylist()
    assert [row["status"] for row in (ok, failed, last)] == ["ok", "NonFinite", "ok"]
    assert failed["message"] == "image: not finite"
    assert [failed[field] for field in ("offset", "size", "sha256", "members", "seconds")] == [
        None
    ] * 5
    assert ok["offset"] == 0
    assert last["offset"] == ok["size"]
    assert ok["members"] == 7
    assert commit.samples == 2
    assert commit.bytes == (column / f"{NAME}.tar").stat().st_size
    assert commit.provenance == {"generator": "demo"}


def test_a_message_is_kept_as_one_line(tmp_path):
    with ShardWriter(tmp_path, NAME, {}) as shard:
        shard.fail("a", "OutOfMemory", "CUDA\n  out of memory \udc80", seed=1, split="train")
    assert read_records(tmp_path / f"{NAME}.parquet")[0]["message"].to_pylist() == [
        "CUDA out of memory ?"
    ]


@pytest.mark.parametrize(
    ("key", "members", "what"),
    [
        ("b", {"x.png": b"", "json": b""}, "given twice"),
        ("c.d", {"x.png": b"", "json": b""}, "key 'c.d'"),
        ("c", {"y.png": b"", "json": b""}, "members differ"),
        ("c", {"json": b""}, "members differ"),
        ("c", {"json": b"", "x.png": b""}, "last member must be json"),
        ("c", {}, "last member must be json"),
    ],
)
def test_samples_that_do_not_fit_are_refused_and_leave_no_trace(tmp_path, key, members, what):
    def write(folder: Path, extra: bool) -> bytes:
        with ShardWriter(folder, NAME, {}) as shard:
            add(shard, "b", {"x.png": b"1", "json": b"2"})
            if extra:
                with pytest.raises(ShardError, match=what):
                    add(shard, key, members)
            add(shard, "e", {"x.png": b"1", "json": b"2"})
        return (folder / f"{NAME}.tar").read_bytes()

    assert write(tmp_path / "with", True) == write(tmp_path / "without", False)


@pytest.mark.parametrize("suffix", ["../x.png", "X.png", "x y", "x."])
def test_member_names_that_do_not_fit_are_refused(tmp_path, suffix):
    with ShardWriter(tmp_path, NAME, {}) as shard, pytest.raises(ShardError, match="rename"):
        add(shard, "a", {suffix: b"", "json": b""})


def test_failures_that_are_none_are_refused(tmp_path):
    with ShardWriter(tmp_path, NAME, {}) as shard:
        with pytest.raises(ShardError, match="no kind of failure"):
            shard.fail("a", "ok", "", seed=0, split="train")
        with pytest.raises(ShardError, match="seed -1"):
            shard.fail("a", "NonFinite", "", seed=-1, split="train")
        shard.fail("a", "NonFinite", "", seed=0, split="train")
        with pytest.raises(ShardError, match="given twice"):
            shard.fail("a", "NonFinite", "", seed=0, split="train")
    with pytest.raises(ShardError, match="rename"):
        ShardWriter(tmp_path, "../train", {})
    with pytest.raises(ShardError, match="not open"):
        shard.fail("b", "NonFinite", "", seed=0, split="train")


def test_an_exception_leaves_nothing_and_harms_nothing(column, make_sample):
    before = {name: (column / name).read_bytes() for name in FILES}

    def interrupt() -> None:
        with ShardWriter(column, NAME, {}) as shard:
            add(shard, "train-00000009", make_sample("train-00000009", 9))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupt()
    assert {name: (column / name).read_bytes() for name in FILES} == before
    assert not [name for name in listing(column) if name.startswith(".")]


def test_every_call_that_can_fail_leaves_all_or_nothing(tmp_path, write_shard, monkeypatch):
    """Fails the n-th write, fsync, replace or unlink, for every n, over an older shard."""
    new = tmp_path / "new"
    write_shard(new, NAME, range(2))
    old = tmp_path / "old"
    write_shard(old, NAME, range(7, 9))
    outcomes: list[str] = []
    for n in range(40):
        folder = tmp_path / str(n)
        write_shard(folder, NAME, range(7, 9))
        with monkeypatch.context() as patch:
            left = _fail_at(patch, n)
            refusal = ""
            try:
                write_shard(folder, NAME, range(2))
            except ShardError as error:
                refusal = str(error)
        if left[0] >= 0:  # n calls were not made: the write went through
            assert _content(folder) == _content(new)
            break
        assert "No space left on device; free space" in refusal
        outcomes.append("old" if is_committed(folder, NAME) else "none")
        assert _content(folder) == (_content(old) if outcomes[-1] == "old" else {})
    assert left[0] >= 0, "the writer makes more calls than were failed"
    assert sorted(set(outcomes)) == ["none", "old"]


def _content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _fail_at(patch: pytest.MonkeyPatch, n: int) -> list[int]:
    """Lets the n-th call of these fail; returns the count of calls left before."""
    left = [n]

    def call(real: Callable[..., Any], *args: Any) -> Any:
        left[0] -= 1
        if left[0] == -1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*args)

    for name in ("write", "fsync", "replace", "unlink"):
        patch.setattr(os, name, partial(call, getattr(os, name)))
    return left


def test_after_a_failed_write_nothing_more_is_taken(tmp_path, monkeypatch):
    def commit_after_failure() -> None:
        with ShardWriter(tmp_path, NAME, {}) as shard:
            with monkeypatch.context() as patch:
                _fail_at(patch, 0)
                with pytest.raises(ShardError, match="No space left"):
                    add(shard, "a", {"json": b"{}"})
            with pytest.raises(ShardError, match="given up"):
                shard.fail("a", "Disk", "full", seed=0, split="train")

    with pytest.raises(ShardError, match="given up"):
        commit_after_failure()
    assert listing(tmp_path) == []


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill() -> None:
        with ShardWriter(tmp_path, NAME, {}) as shard:
            for i in range(100):
                add(shard, f"k{i}", {"x.png": bytes(4000), "json": b"{}"})

    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, hard))
        with pytest.raises(ShardError, match=r"train-00000.tar: cannot write: .*; raise the limit"):
            fill()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert listing(tmp_path) == []


def test_a_read_only_folder_is_one_line():
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o555)
        user = os.geteuid()
        try:
            if user == 0:
                os.seteuid(65534)  # root writes anywhere
            with (
                pytest.raises(ShardError, match=r"Permission denied; make the folder writable"),
                ShardWriter(folder, NAME, {}),
            ):
                pass
        finally:
            os.seteuid(user)
        assert listing(Path(folder)) == []


def run(folder: Path, script: str) -> int:
    """Runs `script` in a fresh interpreter on a writer over `folder`; returns its exit status."""
    begin = f"""
        import os, signal
        from pipeline.shards.writer import ShardWriter
        shard = ShardWriter({str(folder)!r}, {NAME!r}, {{}})
        def add(i):
            shard.add(f"k{{i}}", {{"json": bytes(3000)}}, seed=i, split="train", seconds=0)
    """
    code = textwrap.dedent(begin) + textwrap.dedent(script)
    return subprocess.run([sys.executable, "-c", code], timeout=60).returncode


def test_a_killed_writer_leaves_no_final_name_and_the_next_one_cleans_up(tmp_path):
    status = run(
        tmp_path,
        """
        with shard:
            for i in range(50):
                add(i)
            os.kill(os.getpid(), signal.SIGKILL)
        """,
    )
    assert status == -signal.SIGKILL
    (leftover,) = listing(tmp_path)
    assert leftover.startswith(f".{NAME}.tar.")
    assert not is_committed(tmp_path, NAME)
    with ShardWriter(tmp_path, NAME, {}) as shard:
        assert leftover not in listing(tmp_path)
        add(shard, "a", {"json": b"{}"})
    assert listing(tmp_path) == FILES


@pytest.mark.parametrize("renames", [0, 1, 2])
def test_a_kill_between_the_renames_leaves_no_commit_marker(tmp_path, write_shard, renames):
    write_shard(tmp_path, NAME, range(2))
    status = run(
        tmp_path,
        f"""
        replace, left = os.replace, [{renames}]
        def call(*args):
            left[0] -= 1
            if left[0] < 0:
                os._exit(9)
            replace(*args)
        os.replace = call
        with shard:
            add(0)
        """,
    )
    assert status == 9
    assert not is_committed(tmp_path, NAME)
    assert f"{NAME}.parquet" not in listing(tmp_path)
    assert [finding.kind for finding in verify_shard(tmp_path, NAME)] == ["missing"]
    write_shard(tmp_path, NAME, range(2))
    assert listing(tmp_path) == FILES
    assert verify_shard(tmp_path, NAME) == []


def test_a_living_writer_keeps_its_temporary(tmp_path):
    with ShardWriter(tmp_path, NAME, {}) as first:
        add(first, "a", {"json": b"1"})
        with ShardWriter(tmp_path, NAME, {}) as second:
            assert len(listing(tmp_path)) == 2
            add(second, "a", {"json": b"1"})
    assert is_committed(tmp_path, NAME)
    assert listing(tmp_path) == FILES


@pytest.mark.parametrize("name", FILES)
def test_a_shard_with_a_file_gone_is_not_committed(column, name):
    assert is_committed(column, NAME)
    (column / name).unlink()
    assert not is_committed(column, NAME)
