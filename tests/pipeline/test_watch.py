"""The verbs that look after a run, as a user meets them."""

import fcntl
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from pipeline.bench.care import care
from pipeline.errors import PipelineError
from pipeline.folders import RunFolder, open_run
from pipeline.shards.files import Temporary
from pipeline.stages.column_status import Writing
from pipeline.stages.plan import plan_run
from pipeline.stages.retry import ASIDE, LOCK, find_set_aside
from pipeline.stages.status import look_at_run
from pipeline.watch import retry_failed, status, tell
from tests.pipeline.stages.test_status import HEADER, fill, line, write_losses

Verb = Callable[..., Result]


@pytest.fixture
def manifest(write_manifest: Callable[..., Path]) -> Path:
    return write_manifest()


@pytest.fixture
def folder(manifest: Path, tmp_path: Path) -> RunFolder:
    """The tiny run: all of `render` with two failures, one shard of the style with one."""
    opened = open_run(manifest, tmp_path / "runs")
    plan_run(opened)
    for shard, failed in (("train-00000", 1), ("train-00001", 1), ("test-00000", 0)):
        fill(opened, "render", shard, failed)
    fill(opened, "style-statue", "train-00000", failed=2)
    return opened


@pytest.fixture
def run(manifest: Path, tmp_path: Path) -> Verb:
    """Runs a verb on the tiny run."""

    def call(verb: Any, *arguments: str, target: Path | None = None) -> Result:
        given = [str(target or manifest), "--out", str(tmp_path / "runs"), *arguments]
        return CliRunner().invoke(verb, given)

    return call


def test_run_that_is_not_begun_is_one_line(run: Verb) -> None:
    shown = run(status)
    assert shown.exit_code == 0
    [told] = shown.output.splitlines()
    assert "nothing is made yet; snakemake, or `diffstyle360 plan`, begins it" in told
    assert json.loads(run(status, "--json").output)["started"] is False
    assert "nothing is made yet, so nothing failed" in str(run(retry_failed).exception)


def test_status_is_a_table_for_people(folder: RunFolder, run: Verb) -> None:
    write_losses(folder, HEADER + line(0))
    with (folder.path / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        shown = run(status)
    assert shown.exit_code == 0, shown.output
    lines = shown.output.splitlines()
    assert lines[0] == f"{folder.path}: a snakemake is making it"
    assert lines[1].split() == ["shards", "samples", "failed", "views/s", "left", "bytes"]
    assert lines[2].split()[:4] == ["render", "3/3", "4/4", "2"]
    assert lines[4].split()[:6] == ["stylized-statue", "0/1", "0/1", "0", "-", "-"]
    assert "finetune: step 1 of 2, loss 1, 0.5 steps/s, 2 s left" in lines
    assert "plan: there, metrics: not yet, verified: not yet, report: not yet" in lines
    assert "render: 2 non_finite (first train-00000000: view 0)" in lines
    assert lines[-1].startswith("disk: ")
    assert lines[-1].endswith(" free")


def test_troubles_are_told(folder: RunFolder, run: Verb, monkeypatch: pytest.MonkeyPatch) -> None:
    column = folder.column("style-statue")
    (column / ".train-00001.tar.node7.12.0badcafe.tmp").write_bytes(b"...")
    (column / "train-00000.tar").unlink()
    living = Temporary(column / "test-00000.tar")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    lines = run(status).output.splitlines()
    assert f"1 being written on {living.path.name.split('.')[3]}" in lines[3]
    assert any("the job that wrote train-00001 on node7 is dead" in told for told in lines)
    [told] = [told for told in lines if "damaged" in told]
    assert told.startswith("style-statue: 1 shard damaged, the first: ")
    assert told.endswith("; remove the .parquet, then its stage makes the shard again")
    assert lines[-1] == "warning: the columns to come will not fit; free space, or ask for less"
    living.discard()


def test_json_has_the_same_facts(folder: RunFolder, run: Verb) -> None:
    write_losses(folder, HEADER + line(0))
    told = json.loads(run(status, "--json").output)
    assert told["started"]
    assert told["snakemake"] is False
    render = told["columns"]["render"]
    assert (render["shards"], render["shards_asked"]) == (3, 3)
    assert (render["ok"], render["failed"], render["samples_asked"]) == (2, 2, 4)
    first = {"samples": 2, "first": "train-00000000: view 0"}
    assert render["failures"] == {"non_finite": first}
    assert render["views_per_second"] > 0
    found = look_at_run(folder)
    assert render["bytes"] == found.columns[0].bytes
    assert told["finetune"]["steps"] == 1
    assert told["artefacts"]["plan"] == {"there": True, "stale": False}
    assert told["disk"]["bytes_to_come"] == found.bytes_to_come
    assert told["disk"]["fits"] is True


def test_large_numbers_are_readable(folder: RunFolder) -> None:
    found = look_at_run(folder)
    for column in found.columns:
        column.views = 10
    column = found.columns[0]
    column.bytes, column.samples_per_second, column.seconds_left = 999_600_000, 1234.5, 90_000
    column.writing = [Writing(f"s{n}", f"node{n % 2}", 5, 1.0, True) for n in range(4)]
    found.columns[1].seconds_left = 200_000
    found.columns[2].seconds_left = 600
    lines = tell(found)
    assert "12345  25 h 00 min     1 GB  4 being written on 2 machines" in lines[2]
    assert "2 d 7 h" in lines[3]
    assert "10 min" in lines[4]


def test_failed_shards_are_set_aside(folder: RunFolder, run: Verb) -> None:
    files = sorted(folder.path.rglob("*"))
    shown = run(retry_failed, "--dry-run")
    assert shown.exit_code == 0, shown.output
    assert shown.output.splitlines() == [
        "render: 2 shards would be set aside, 2 samples to be tried again",
        "  2 non_finite (first train-00000000: view 0)",
        "style-statue: 1 shard would be set aside, 2 samples to be tried again",
        "  2 non_finite (first train-00000000: view 0)",
        "stylized-statue: nothing failed",
    ]
    assert sorted(folder.path.rglob("*")) == files
    shown = run(retry_failed, "--column", "render")
    assert shown.output.splitlines() == [
        "render: 2 shards set aside, 2 samples to be tried again",
        "  2 non_finite (first train-00000000: view 0)",
        "now run what made these shards: snakemake, or the stages' verbs",
    ]
    assert find_set_aside(folder.column("render")) == ["train-00000", "train-00001"]
    assert find_set_aside(folder.column("style-statue")) == []
    assert "2 set aside" in run(status).output
    shown = run(retry_failed, "--kind", "cannot_encode")
    assert shown.output.splitlines() == [
        "render: no such failure",
        "  2 shards set aside before, not made again yet",
        "style-statue: no such failure",
        "stylized-statue: no such failure",
        "now run what made these shards: snakemake, or the stages' verbs",
    ]


def test_results_that_no_longer_hold_are_removed(folder: RunFolder, run: Verb) -> None:
    """While they are there, Snakemake takes the run for done and makes no missing shard."""
    results = [folder.verified_path, folder.report_path, folder.metrics_path]
    for path in results:
        path.touch()
    assert run(retry_failed, "--dry-run").exit_code == 0
    assert run(retry_failed, "--kind", "cannot_encode").exit_code == 0
    assert all(path.exists() for path in results)
    assert run(retry_failed).exit_code == 0
    assert not any(path.exists() for path in results)


def test_folder_made_without_a_manifest_will_do(folder: RunFolder, run: Verb) -> None:
    shown = run(retry_failed, target=folder.path)
    assert shown.output.splitlines()[0] == "render: 2 shards set aside, 2 samples to be tried again"
    assert sorted(path.name for path in folder.column("style-statue").iterdir()) == [ASIDE]
    again = run(retry_failed, target=folder.path)
    assert "1 shard set aside before" in again.output
    wrong = run(retry_failed, target=folder.column("render"))
    assert isinstance(wrong.exception, PipelineError)
    assert "no column of shards in this folder" in str(wrong.exception)


def test_retry_refuses_what_it_cannot_do(folder: RunFolder, run: Verb) -> None:
    wrong = run(retry_failed, "--column", "style-statu").exception
    assert isinstance(wrong, PipelineError)
    assert "no column 'style-statu' in " in str(wrong)
    assert str(wrong).endswith("there: render, style-statue, stylized-statue")
    with (folder.path / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "a snakemake is making this run" in str(run(retry_failed).exception)
        assert run(retry_failed, "--dry-run").exit_code == 0
    assert find_set_aside(folder.column("render")) == []
    (folder.column("style-statue") / "train-00000.parquet").write_bytes(b"no Parquet")
    assert "not readable as Parquet" in str(run(retry_failed).exception)
    assert find_set_aside(folder.column("render")) == []  # nothing moves before all is read


def test_verbs_start_without_torch(manifest: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pipeline.watch import status; "
        "status(sys.argv[1:], standalone_mode=False); sys.exit('torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(manifest), "--out", str(tmp_path)]
    assert subprocess.run(command).returncode == 0


def test_bench_measures_each_verb(tmp_path: Path) -> None:
    arguments = ["--rows", "130", "--failed", "0.1", "--json", str(tmp_path / "figures.json")]
    shown = CliRunner().invoke(care, arguments)
    assert shown.exit_code == 0, shown.output
    figures = json.loads((tmp_path / "figures.json").read_text())["figures"]
    verbs = "status", "stats", "retry-failed --dry-run"
    assert list(figures) == [f"{verb}, 3 shards" for verb in verbs]
    for figure in figures.values():
        assert figure["CPU seconds"] > 0
        assert figure["peak MB"] > 10


def test_folder_of_a_run_tells_as_its_manifest_does(folder: RunFolder, run: Verb) -> None:
    assert run(status, target=folder.path).output == run(status).output


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (None, "no run was planned in this folder; give RUNS/NAME-HASH, or the manifest"),
        ('{"content": 1}', "made without a manifest, so nothing says how much there will be"),
        ("[", "stylize.json is not as `plan` wrote it; give the manifest"),
        ('{"manifest": {"name": 3}}', "stylize.json is not as `plan` wrote it; give the manifest"),
    ],
)
def test_folder_that_nobody_planned_is_refused(
    run: Verb, tmp_path: Path, said: str | None, expected: str
) -> None:
    if said is not None:
        (tmp_path / "stylize.json").write_text(said)
    shown = run(status, target=tmp_path)
    assert isinstance(shown.exception, PipelineError)
    assert str(shown.exception) == f"{tmp_path}: {expected}"
