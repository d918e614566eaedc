import fcntl
import json
from pathlib import Path

import pytest

from pipeline.errors import PipelineError
from pipeline.folders import RunFolder
from pipeline.shards.reader import Column
from pipeline.shards.writer import ShardWriter
from pipeline.stages.retry import LOCK
from pipeline.stages.verify import verify_folder, verify_run


def test_a_whole_run_is_counted_and_indexed(made_run: RunFolder) -> None:
    statuses = json.loads(made_run.verified_path.read_text())
    assert statuses == {
        "render": {"ok": 4}, "style-statue": {"ok": 4}, "stylized-statue": {"ok": 1},
    }  # fmt: skip
    for column, expected in (("render", 3), ("stylized-statue", 1)):
        wids = json.loads((made_run.column(column) / "wids.json").read_text())
        assert len(wids["shardlist"]) == expected
    assert verify_folder(made_run.column("style-statue")) == 4


def test_every_fault_is_printed_and_the_first_one_is_the_error(
    copied_run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    copied_run.verified_path.unlink()
    tar = copied_run.column("render") / "train-00000.tar"
    damaged = bytearray(tar.read_bytes())
    damaged[700] ^= 1
    tar.write_bytes(damaged)
    for path in copied_run.column("stylized-statue").glob("test-*"):
        path.unlink()
    with pytest.raises(
        PipelineError, match=r"faults found, the first: render/train-00000\.tar: tr"
    ):
        verify_run(copied_run)
    lines = capsys.readouterr().err
    assert "render/train-00000.tar: train-00000000.view_00.rgb.png: sha256 differs" in lines
    assert "stylized-statue: test-00000000: neither ok nor failed" in lines
    assert not copied_run.verified_path.exists()


def test_repair_removes_what_is_damaged_and_nothing_else(copied_run: RunFolder) -> None:
    render, style = copied_run.column("render"), copied_run.column("style-statue")
    wrong = Column(style).read("train-00000001", decoded=False)
    (render / "train-00000.idx").write_bytes(b"v1.2 9")
    parquet = style / "train-00001.parquet"
    parquet.write_bytes(parquet.read_bytes()[:-9])
    (style / "test-00000.tar").unlink()
    with ShardWriter(
        style, "train-00000", {}
    ) as writer:  # committed so, but not what was asked for
        writer.add("train-00000001", wrong, seed=1, split="train", seconds=0.0)
    copied_run.report_path.touch()
    with (copied_run.path / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(PipelineError, match="a snakemake is making this run"):
            verify_run(copied_run, repair=True)
    assert parquet.exists()
    with pytest.raises(PipelineError, match="3 damaged shards were removed: run the workflow"):
        verify_run(copied_run, repair=True)
    assert not copied_run.verified_path.exists()  # or snakemake would see nothing to make
    assert not copied_run.report_path.exists()
    kept = {path.name for path in render.glob("t*")} | {path.name for path in style.glob("t*")}
    assert not list(render.glob("train-00000*"))
    assert {path.stem for path in style.glob("t*")} == {"train-00000"}
    assert {"train-00001.tar", "train-00001.idx", "train-00001.parquet"} <= kept
    with pytest.raises(PipelineError, match=r"faults found, the first: [^;]*$"):
        verify_run(copied_run, repair=True)


def test_workers_change_neither_lines_nor_files(
    copied_run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    verify_run(copied_run)
    paths = [copied_run.verified_path, *copied_run.path.glob("*/wids.json")]
    files = {path: path.read_bytes() for path in paths}
    said = []
    for workers in (1, 2, 5):
        for path in files:
            path.unlink()
        assert verify_run(copied_run, workers) == 9
        assert {path: path.read_bytes() for path in files} == files
    for shard in ("train-00000", "train-00001", "test-00000"):
        tar = copied_run.column("render") / f"{shard}.tar"
        damaged = bytearray(tar.read_bytes())
        damaged[700] ^= 1
        tar.write_bytes(damaged)
    capsys.readouterr()
    for workers in (1, 2, 5):
        with pytest.raises(PipelineError) as error:
            verify_run(copied_run, workers)
        with pytest.raises(PipelineError, match=r"render: 3 faults found"):
            verify_folder(copied_run.column("render"), workers)
        said.append((str(error.value), capsys.readouterr().err))
    assert said[0] == said[1] == said[2]
    assert said[0][1].count("sha256 differs") == 6


def test_a_folder_without_shards_is_a_fault(copied_run: RunFolder) -> None:
    (copied_run.path / "empty").mkdir()
    with pytest.raises(PipelineError, match="no shard here"):
        verify_folder(copied_run.path / "empty")


def test_columns_in_a_folder_are_checked_and_must_zip(
    copied_run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fetched = copied_run.path / ".content"  # tars of others, as a bulk stylization keeps them
    fetched.mkdir()
    (fetched / "theirs-00000.tar").touch()
    assert verify_folder(copied_run.path) == 4 + 4 + 1
    with pytest.raises(PipelineError, match=r"no shard here, nor in a folder in it"):
        verify_folder(tmp_path)
    render, style = copied_run.column("render"), copied_run.column("style-statue")
    for path in (*style.glob("train-00001.*"), style / "wids.json"):
        path.unlink()
    with pytest.raises(PipelineError, match=r"does not zip with .*train-00001"):
        verify_folder(copied_run.path)
    (render / "train-00000.parquet").write_bytes(b"PAR1")
    (style / "train-00000.tar").write_bytes(b"")
    with pytest.raises(PipelineError, match=r"faults found, the first: render/train-00000"):
        verify_folder(copied_run.path)
    assert "style-statue/train-00000.tar" in capsys.readouterr().err
