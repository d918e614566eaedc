"""A bulk stylization planned once and made shard by shard: the same bytes, whatever changes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

import pipeline.stages.bulk as bulk_stage
import pipeline.stages.bulk_run as stage
from manifests import ManifestError
from pipeline.counts import count_column
from pipeline.errors import PipelineError
from pipeline.folders import BulkFolder, RunFolder, open_folder
from pipeline.inputs.planned import find_jobs, read_jobs
from pipeline.shards.reader import Column
from pipeline.stages.bulk import open_bulk, stylize_bulk_shard
from pipeline.stages.bulk_run import build_request, plan_bulk, stylize_planned
from pipeline.stages.verify import verify_run
from pipeline.watch import retry_failed
from tests.pipeline import odd_images
from tests.pipeline.odd_images import encode, picture
from tests.pipeline.stages.test_bulk import rows, write_identity, write_portraits
from tests.pipeline.stages.test_bulk_aligned import FACE, write_faces

CPU = torch.device("cpu")
Open = Callable[..., BulkFolder]


def make(folder: BulkFolder, columns: tuple[str, ...] = (), shards: tuple[str, ...] = ()) -> None:
    stylize_planned(folder, columns, shards, CPU)


def files(folder: Path) -> dict[str, bytes]:
    """The tars and indexes of all columns."""
    found = [path for path in folder.glob("stylized*/*") if path.suffix in (".tar", ".idx")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def write_mixed(folder: Path) -> None:
    """Five portraits, one of them damaged, one with a back view, and an identity of four views."""
    write_portraits(folder, 4)
    (folder / "0.back.png").write_bytes(encode(picture(seed=5), "PNG"))
    (folder / "cut.png").write_bytes(odd_images.bad()["cut.png"][0])
    write_identity(folder / "anna", seed=10)
    for view in (2, 3):
        (folder / "anna" / f"{view}.png").write_bytes(encode(picture(seed=view), "PNG"))


def test_shard_by_shard_it_is_what_a_command_line_makes(
    open_planned: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_mixed(tmp_path / "in")
    folder = open_planned(styles=["ink.png", "oil.png"])
    assert plan_bulk(folder) == 2 * 6
    assert folder.shards == {
        name: ["train-00000"] if name.endswith(".v4") else [f"train-0000{n}" for n in range(3)]
        for name in ("stylized-ink", "stylized-ink.v4", "stylized-oil", "stylized-oil.v4")
    }
    with monkeypatch.context() as patch:  # no job lists anything
        patch.setattr(bulk_stage, "list_content", lambda *_: 1 / 0)
        for column, shards in folder.shards.items():
            for shard in reversed(shards):
                make(folder, (column,), (shard,))
    bulk = open_bulk(build_request(folder.bulk), tmp_path / "out", CPU)
    for column, jobs in bulk.columns.items():
        for shard in jobs:
            stylize_bulk_shard(bulk, column, shard)
    assert files(folder.path) == files(tmp_path / "out")
    for column in folder.shards:
        planned, listed = rows(folder.column(column)), rows(tmp_path / "out" / column)
        for row in (*planned.values(), *listed.values()):
            del row["seconds"]
        assert planned == listed
    assert verify_run(folder) == 2 * 6
    said = json.loads(folder.verified_path.read_text())
    assert said["stylized-oil"] == {"ok": 4, "truncated": 1}
    assert said["stylized-oil.v4"] == {"ok": 1}


def test_a_shard_without_a_column_is_one_of_each(open_planned: Open, tmp_path: Path) -> None:
    write_mixed(tmp_path / "in")
    folder = open_planned()
    plan_bulk(folder)
    assert stylize_planned(folder, (), ("train-00000",), CPU) == ["stylized-ink", "stylized-ink.v4"]
    assert stylize_planned(folder, (), ("train-00001",), CPU) == ["stylized-ink"]
    made = {path.name for path in (folder.path / "stylized-ink").glob("*.tar")}
    assert made == {"train-00000.tar", "train-00001.tar"}


def test_what_is_there_is_left_and_nothing_loaded(
    open_planned: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_portraits(tmp_path / "in", 3)
    folder = open_planned()
    plan_bulk(folder)
    make(folder)
    before = {path: path.stat().st_mtime_ns for path in folder.path.rglob("*.tar")}
    read: list[Any] = []

    def read_some(plan: Path, wanted: Any) -> Any:
        read.append(wanted)
        return read_jobs(plan, wanted)

    monkeypatch.setattr(stage, "read_jobs", read_some)
    (folder.column("stylized-ink") / "train-00001.parquet").unlink()
    make(folder)
    assert read == [{"stylized-ink": ["train-00001"]}]
    monkeypatch.setattr(stage, "load_bulk", lambda *_: 1 / 0)
    make(folder)
    assert len(before) == 2
    first = folder.column("stylized-ink") / "train-00000.tar"
    assert first.stat().st_mtime_ns == before[first]


def test_wrong_names_are_one_line(open_planned: Open, tmp_path: Path) -> None:
    write_portraits(tmp_path / "in", 3)
    folder = open_planned()
    with pytest.raises(ManifestError, match="no plan yet; run `diffstyle360 plan` first"):
        make(folder)
    plan_bulk(folder)
    folder = open_planned()
    with pytest.raises(PipelineError, match="no column 'stylized-oil' in this run; there: styl"):
        make(folder, ("stylized-oil",))
    with pytest.raises(PipelineError, match="no shard 'x' in this run; train-00000 to train-00001"):
        make(folder, (), ("x",))


def test_until_a_shard_is_begun_planning_again_takes_what_is_there(
    open_planned: Open, tmp_path: Path
) -> None:
    write_portraits(tmp_path / "in", 2)
    folder = open_planned()
    assert plan_bulk(folder) == 2
    write_portraits(tmp_path / "in" / "more", 1)
    (tmp_path / "in" / "5.png").write_bytes(encode(picture(seed=5), "PNG"))
    assert plan_bulk(folder) == 4


def test_a_changed_content_is_told_and_nothing_mixed(open_planned: Open, tmp_path: Path) -> None:
    content = write_portraits(tmp_path / "in", 4)
    folder = open_planned()
    plan_bulk(folder)
    make(folder, (), ("train-00000",))
    plan = folder.plan_path.read_bytes()
    (content / "00.png").write_bytes(encode(picture(seed=5), "PNG"))  # it would come before 1.png
    with pytest.raises(PipelineError, match="made of 4 inputs, and what is there now, 5 inputs, "):
        plan_bulk(folder)
    folder.plan_path.unlink()  # as Snakemake does with what a job that failed should have written
    with pytest.raises(PipelineError, match="bring it back, or give the manifest another name"):
        plan_bulk(folder)
    (content / "00.png").unlink()
    plan_bulk(folder)
    assert folder.plan_path.read_bytes() == plan
    (content / "2.png").write_bytes(encode(picture(seed=6), "PNG") + b"more")
    (content / "3.png").unlink()
    (content / "4.png").write_bytes(encode(picture(seed=7), "PNG"))
    make(folder)
    found = rows(folder.column("stylized-ink"))
    assert {key: row["status"] for key, row in found.items()} == {
        "0": "ok", "1": "ok", "2": "changed", "3": "missing"
    }  # fmt: skip
    assert verify_run(folder) == 4
    write_portraits(tmp_path / "same", 1)
    (content / "3.png").write_bytes((tmp_path / "same" / "0.png").read_bytes())
    (content / "4.png").unlink()
    with pytest.raises(PipelineError, match="made of 4 inputs, and what is there now, 4 inputs, "):
        plan_bulk(folder)
    folder.request_path.write_text("{")
    with pytest.raises(
        PipelineError, match=r"stylize\.json: not as it was written; give the run an"
    ):
        plan_bulk(folder)


def test_what_failed_is_made_again_once_it_is_mended(
    open_planned: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = write_portraits(tmp_path / "in", 4)
    folder = open_planned(shard_size=4)
    plan_bulk(folder)
    whole = (content / "2.png").read_bytes()
    (content / "2.png").write_bytes(whole + b"more")
    make(folder)
    column = folder.column("stylized-ink")
    assert count_column(column).statuses == {"ok": 3, "changed": 1}
    verify_run(folder)
    (content / "2.png").write_bytes(whole)
    asked = [str(tmp_path / "bulk.yaml"), "--out", str(tmp_path / "runs")]
    shown = CliRunner().invoke(retry_failed, asked)
    assert shown.exit_code == 0, shown.output
    assert shown.output.startswith("stylized-ink: 1 shard set aside, 1 sample to be tried again\n")
    assert not folder.verified_path.exists()  # else Snakemake would take the run for done
    computed: list[str] = []
    read = bulk_stage._read

    def read_one(bulk: Any, job: Any) -> Any:
        computed.append(job.key)
        return read(bulk, job)

    monkeypatch.setattr(bulk_stage, "_read", read_one)
    make(folder)
    assert computed == ["2"]
    assert count_column(column).statuses == {"ok": 4}
    smooth = BulkFolder(folder.bulk, tmp_path / "smooth")
    plan_bulk(smooth)
    make(smooth)
    assert files(folder.path) == files(smooth.path)


def test_what_cannot_be_planned_leaves_nothing(open_planned: Open, tmp_path: Path) -> None:
    folder = open_planned()
    with pytest.raises(PipelineError, match=r"in: no images there, and no \.tar of samples"):
        plan_bulk(folder)
    write_portraits(tmp_path / "in", 1)
    (tmp_path / "ink.png").write_bytes(odd_images.bad()["cut.png"][0])
    folder = open_planned()
    with pytest.raises(PipelineError, match=r"ink\.png: the file is cut off"):
        plan_bulk(folder)
    assert not (tmp_path / "runs").exists()


def test_table_says_what_every_sample_is(open_planned: Open, tmp_path: Path) -> None:
    write_portraits(tmp_path / "in", 2)
    (tmp_path / "jobs.csv").write_text(
        "content,style,presence,name\nin/0.png,ink.png,,a\nin/1.png,oil.png,0.5,b\nno.png,ink.png,,c\n"
    )
    folder = open_planned(table="jobs.csv", content=None, styles=None)
    assert plan_bulk(folder) == 3
    assert folder.shards == {"stylized": ["train-00000", "train-00001"]}
    make(folder)
    column = Column(folder.column("stylized"))
    faint = column.read("row-00000001-b", ["json"])["json"]
    assert (faint["label"], faint["settings"]["presence"]) == ("b", 0.5)
    assert faint["style"]["name"] == "oil.png"
    assert rows(column.folder)["row-00000002-c"]["status"] == "missing"
    assert verify_run(folder) == 3


def test_samples_of_a_column_stay_in_their_shards(open_planned: Open, made_run: RunFolder) -> None:
    rendered = made_run.column("render")
    folder = open_planned(content=str(rendered))
    plan_bulk(folder)
    assert folder.shards == {"stylized-ink": ["test-00000", "train-00000", "train-00001"]}
    make(folder)
    assert Column(folder.column("stylized-ink")).keys == Column(rendered).keys
    assert verify_run(folder) == 4


def test_folder_of_either_kind_is_opened(
    open_planned: Open, write_manifest: Callable[..., Path], tmp_path: Path
) -> None:
    run = open_folder(write_manifest(), tmp_path)
    assert isinstance(run, RunFolder)
    bulk = open_planned()
    assert bulk.path == tmp_path / "runs" / bulk.bulk.folder_name()
    assert {run.plan_path.name, bulk.plan_path.name} == {"plan.parquet"}


def test_aligned_portraits_are_planned_with_their_landmarks(
    open_planned: Open, tmp_path: Path
) -> None:
    write_faces(tmp_path / "in", a=FACE, b=None, c=FACE - [10, 2])
    folder = open_planned(align={"smallest_face": 0.5})
    assert plan_bulk(folder) == 3
    found = find_jobs(folder.plan_path, "stylized-ink", ["a", "b"])
    beside = found["a"].content.landmarks
    assert beside is not None
    assert beside.path == tmp_path / "in" / "a.landmarks.json"
    assert found["b"].content.landmarks is None
    make(folder)
    bulk = open_bulk(build_request(folder.bulk), tmp_path / "out", CPU)
    for shard in bulk.columns["stylized-ink"]:
        stylize_bulk_shard(bulk, "stylized-ink", shard)
    assert files(folder.path) == files(tmp_path / "out")
    made = rows(folder.column("stylized-ink"))
    assert {key: row["status"] for key, row in made.items()} == {
        "a": "ok", "b": "no_landmarks", "c": "ok"
    }  # fmt: skip
    assert verify_run(folder) == 3
    (tmp_path / "in" / "c.landmarks.json").write_text(json.dumps((FACE + 1).tolist()) + " ")
    with pytest.raises(PipelineError, match="what is there now, 3 inputs, is not the same"):
        plan_bulk(folder)


def test_a_run_that_does_not_align_knows_of_no_landmarks(
    open_planned: Open, tmp_path: Path
) -> None:
    content = write_faces(tmp_path / "in", a=None)
    folder = open_planned()
    plan_bulk(folder)
    before = folder.plan_path.read_bytes(), folder.request_path.read_bytes()
    (content / "a.landmarks.json").write_text(json.dumps(FACE.tolist()))
    plan_bulk(folder)
    assert before == (folder.plan_path.read_bytes(), folder.request_path.read_bytes())
    assert "align" not in json.loads(before[1])["manifest"]
    assert open_planned(align=True).path != folder.path


def test_a_detector_that_is_none_is_told_when_it_is_planned(
    open_planned: Open, tmp_path: Path
) -> None:
    write_faces(tmp_path / "in", a=FACE)
    (tmp_path / "yunet.onnx").write_bytes(b"none")
    with pytest.raises(PipelineError, match=r"yunet\.onnx: not a readable ONNX file"):
        plan_bulk(open_planned(align={"detector": "yunet.onnx"}))
    assert not (tmp_path / "runs").exists()
