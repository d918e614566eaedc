"""The command line as a user meets it: exit codes, and one line where it says no."""

import json
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from manifests.digests import digest_file
from manifests.shipped import stylizer_folder
from pipeline.cli import cli, main
from pipeline.folders import RunFolder, open_folder, open_run
from pipeline.shards.writer import ShardWriter
from pipeline.stages.plan import plan_run
from tests.pipeline.odd_images import encode, picture

Write = Callable[..., Path]
Run = Callable[..., "Done"]
VERBS = ("plan", "render", "encode", "finetune", "stylize", "evaluate", "report", "verify")


@dataclass
class Done:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Done]:
    """Calls `diffstyle360 ARGUMENTS` in this process, up to its exit."""

    def call(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["diffstyle360", *map(str, arguments)])
        capsys.readouterr()
        try:
            main()
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
        shown = capsys.readouterr()
        return Done(code, shown.out, shown.err)

    return call


def refusal(done: Done | subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 2, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("diffstyle360: error: ")
    assert "Traceback" not in done.stderr
    return last.removeprefix("diffstyle360: error: ")


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb: str) -> None:
    shown = CliRunner().invoke(cli, [verb, "--help"])
    assert shown.exit_code == 0
    assert "Usage:" in shown.output


def test_wrong_usage_is_one_line(run: Run, write_manifest: Write, tmp_path: Path) -> None:
    assert refusal(run("rendr")).startswith("No such command 'rendr'")
    assert refusal(run("plan")).startswith("Missing argument 'MANIFEST'")
    assert "unknown key" in refusal(run("plan", write_manifest({"sed": 1})))
    missing = refusal(run("plan", tmp_path / "none.yaml"))
    assert missing.endswith("none.yaml: cannot read it: No such file or directory")


def test_wrong_names_are_one_line(run: Run, write_manifest: Write, tmp_path: Path) -> None:
    manifest, out = write_manifest(), tmp_path / "runs"
    assert "no plan yet; run `diffstyle360 plan` first" in refusal(
        run("render", manifest, "--out", out, "--column", "render", "--shard", "test-00000")
    )
    plan_run(open_run(manifest, out))
    for arguments, expected in [
        (
            ("--shard", "test-00009"),
            "no shard 'test-00009' in this run; it has 3: train-00000, train-00001, test-00000",
        ),
        (("--column", "style-joker"), "no column 'style-joker' to render; there: render, style-st"),
        (("--device", "cuda:99"), "--device cuda:99: "),
        (("--device", "abacus"), "--device abacus: "),
    ]:
        assert refusal(run("render", manifest, "--out", out, *arguments)).startswith(expected)
    wrong = write_manifest({"styles.statue.source": "procedural:statu"})
    plan_run(open_run(wrong, out))
    told = refusal(run("render", wrong, "--out", out, "--column", "style-statue"))
    assert "did you mean 'procedural:statue'?" in told


def test_full_disk_is_one_line_and_leaves_nothing(write_manifest: Write, tmp_path: Path) -> None:
    """Real processes: one that may not write more than 4 KiB to a file, then one that may."""
    manifest, out = write_manifest(), tmp_path / "runs"
    folder = open_run(manifest, out)
    plan_run(folder)
    command = [sys.executable, "-m", "pipeline.cli", "render", manifest, "--out", out]
    command += ["--column", "render", "--shard", "test-00000"]
    told = refusal(
        subprocess.run(
            command,
            capture_output=True,
            text=True,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)),
        )
    )
    assert "test-00000.tar: cannot write: File too large; raise the limit on file sizes" in told
    assert list(folder.column("render").iterdir()) == []
    assert subprocess.run(command).returncode == 0


def test_out_folder_that_cannot_be_made_is_one_line(
    run: Run, write_manifest: Write, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    told = refusal(run("plan", write_manifest(), "--out", tmp_path / "file" / "runs"))
    assert "Not a directory" in told


def test_rendering_twice_does_the_second_time_nothing(
    run: Run, write_manifest: Write, tmp_path: Path
) -> None:
    manifest, out = write_manifest(), tmp_path / "runs"
    plan_run(open_run(manifest, out))
    first = run("render", manifest, "--out", out)
    assert first.returncode == 0
    assert "style-statue/test-00000: 1/1" in first.stderr
    second = run("render", manifest, "--out", out)
    assert (second.returncode, second.stderr) == (0, "")


@pytest.mark.parametrize(("allowed", "code"), [(0.2, 1), (0.25, 0)])
def test_too_many_failures_are_exit_code_1(
    run: Run, write_manifest: Write, tmp_path: Path, allowed: float, code: int
) -> None:
    manifest = write_manifest(
        {"allow_failed": allowed, "styles": {}, "finetune": None, "stylize": None}
    )
    folder = open_run(manifest, tmp_path / "runs")
    plan_run(folder)
    with ShardWriter(folder.column("render"), "test-00000", {}) as writer:
        writer.fail("test-00000000", "non_finite", "view 1", seed=1, split="test")
    done = run("render", manifest, "--out", tmp_path / "runs")
    assert done.returncode == code
    told = "1 of 4 samples failed, more than allow_failed 0.2: 1 non_finite (first test-00000000"
    assert (told in done.stderr) == (code == 1)


@pytest.fixture
def views(tmp_path: Path) -> Path:
    """A folder with two identities of two views each, and beside it a style image."""
    for number in range(4):
        path = tmp_path / "in" / f"identity {number // 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(picture(seed=number), "PNG"))
    (tmp_path / "ink.png").write_bytes(encode(picture(seed=9), "PNG"))
    return tmp_path / "in"


def test_images_are_stylized_without_a_manifest(
    run: Run, views: Path, tiny_model: Path, tmp_path: Path
) -> None:
    column, out = tmp_path / "out" / "stylized-ink", tmp_path / "out"
    asked = ("stylize", "--content", views, "--style", tmp_path / "ink.png", "--out", out)
    asked += ("--model", tiny_model, "--steps", 1, "--shard-size", 1)
    first = run(*asked, "--shard", "train-00001")
    assert (first.returncode, first.stdout) == (0, f"{column}\n")
    assert [path.stem for path in column.glob("*.tar")] == ["train-00001"]
    made = (column / "train-00001.tar").stat().st_mtime_ns
    second = run(*asked)
    assert second.returncode == 0
    assert (column / "train-00001.tar").stat().st_mtime_ns == made
    (column / "train-00000.parquet").unlink()  # as a job that was killed leaves it
    assert "stylized-ink/train-00000: 1/1" in run(*asked).stderr
    assert run(*asked).stderr == ""
    assert run("verify", column).returncode == 0
    assert run("sheet", column, tmp_path / "sheet.webp").returncode == 0
    told = refusal(run(*asked, "--seed", 1))
    assert told.endswith("holds another stylization: its seed differs; choose another folder")
    told = refusal(run(*asked, "--shard", "train-00009"))
    assert told.startswith("no shard 'train-00009' in this request; train-00000 to train-00001")


def test_without_a_model_it_is_the_one_in_the_package(
    run: Run, views: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    asked = ("--content", views, "--style", tmp_path / "ink.png", "--views", 4, "--steps", 1)
    done = run("stylize", *asked, "--out", out)
    assert done.returncode == 0, done.stderr
    weights = json.loads((out / "stylize.json").read_text())["model"]["sha256"]
    assert weights == digest_file(stylizer_folder() / "model.safetensors")


@pytest.mark.parametrize(("allowed", "code"), [(0.3, 1), (0.34, 0)])
def test_images_that_fail_may_be_allowed(
    run: Run, views: Path, tiny_model: Path, tmp_path: Path, allowed: float, code: int
) -> None:
    (views / "bad.png").touch()
    done = run(
        "stylize", "--content", views, "--style", tmp_path / "ink.png", "--out", tmp_path / "out",
        "--model", tiny_model, "--steps", 1, "--allow-failed", allowed,
    )  # fmt: skip
    assert done.returncode == code
    assert str(tmp_path / "out" / "stylized-ink") in done.stdout.splitlines()
    told = "1 of 3 samples failed, more than allow_failed 0.3: 1 empty (first bad: bad.png: "
    assert (told in done.stderr) == (code == 1)


def test_options_that_do_not_go_together_are_one_line(
    run: Run, write_manifest: Write, tmp_path: Path
) -> None:
    out = ("--out", tmp_path / "out")
    for arguments, told in [
        ((), "Missing argument 'MANIFEST', or option '--content' or '--table'."),
        (("--content", "x"), "give style images (--style), or a table that names them (--table)"),
        (("--content", "x", "--style", "y", "--table", "z"), "give style images (--style), or a t"),
        (
            ("--content", "x", "--style", "y", "--model", "z", "--reference", "a"),
            "--reference goes",
        ),
        (("--table", "x", "--model", "z", "--portraits"), "--portraits goes with --content"),
        (
            ("--content", "x", "--style", "y", "--smallest-face", 1),
            "--smallest-face goes with --align",
        ),
        (("--content", "x", "--smallest-face", 5), "Invalid value for '--smallest-face': 5.0 is n"),
        ((write_manifest(), "--portraits"), "give a manifest, or --content and its options, not b"),
        (("--content", "x", "--presence", "nan"), "Invalid value for '--presence': nan is not a f"),
        (("--content", "x", "--temperature", 0), "Invalid value for '--temperature': 0.0 is not"),
        (("--table", tmp_path / "none.csv", "--model", "z"), f"{tmp_path / 'none.csv'}: cannot re"),
        ((write_manifest(), "--steps", 3), "give a manifest, or --content and its options, not b"),
    ]:
        assert refusal(run("stylize", *arguments, *out)).startswith(told)
    missing = refusal(run("stylize", "--content", "x", "--style", "y", "--model", "z"))
    assert missing == "Missing option '--out'."
    assert not (tmp_path / "out").exists()


@pytest.fixture
def bulk(views: Path, tiny_model: Path) -> Path:
    """A bulk manifest over these views."""
    path = views.parent / "bulk.yaml"
    path.write_text(
        f"name: inked\ncontent: in\nstyles: [ink.png]\nmodel: {tiny_model}\n"
        "sampling: {steps: 1}\nshard_size: 1\n"
    )
    return path


def test_bulk_manifest_is_made_verb_by_verb(run: Run, bulk: Path, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "runs")
    folder = open_folder(bulk, tmp_path / "runs")
    assert refusal(run("stylize", bulk, *out)).endswith("run `diffstyle360 plan` first")
    planned = run("plan", bulk, *out)
    assert planned.returncode == 0
    assert planned.stdout.startswith(f"{folder.plan_path}: 2 samples, 2 shards; about ")
    assert planned.stdout.endswith(" free\n")
    first = run("stylize", bulk, *out, "--column", "stylized-ink", "--shard", "train-00001")
    assert first.returncode == 0
    assert "stylized-ink/train-00001: 1/1" in first.stderr
    assert "train-00001" not in run("stylize", bulk, *out).stderr
    verified = run("verify", bulk, *out)
    assert (verified.returncode, verified.stdout) == (
        0, f"{folder.path}: 2 samples, all whole\n"
    )  # fmt: skip
    reported = run("report", bulk, *out)
    assert (reported.returncode, reported.stdout) == (0, f"{folder.report_path}\n")


@pytest.mark.parametrize(("allowed", "code"), [(0.3, 1), (0.34, 0)])
def test_bulk_manifest_says_how_many_may_fail(
    run: Run, bulk: Path, tmp_path: Path, allowed: float, code: int
) -> None:
    (tmp_path / "in" / "bad.png").touch()
    bulk.write_text(bulk.read_text() + f"allow_failed: {allowed}\n")
    out = ("--out", tmp_path / "runs")
    assert run("plan", bulk, *out).returncode == 0
    for verb in ("stylize", "verify"):
        done = run(verb, bulk, *out)
        assert done.returncode == code
        told = "1 of 3 samples failed, more than allow_failed 0.3: 1 empty (first bad: bad.png: "
        assert (told in done.stderr) == (code == 1)
    assert run("stylize", bulk, *out, "--shard", "train-00000").returncode == 0


def test_options_go_with_their_kind_of_manifest(
    run: Run, bulk: Path, write_manifest: Write, tmp_path: Path
) -> None:
    for arguments, told in [
        (("stylize", bulk, "--reference", "a"), "--reference goes with the manifest of a run"),
        (("stylize", write_manifest(), "--column", "a"), "--column goes with a bulk manifest"),
        (("stylize", "--column", "a", "--content", "x"), "--column goes with a manifest"),
        (("stylize", bulk, "--steps", 3), "give a manifest, or --content and its options, not bo"),
        (("render", bulk), f"{bulk}: a bulk manifest, for plan, stylize, verify, report,"),
    ]:
        assert refusal(run(*arguments, "--out", tmp_path / "runs")).startswith(told)
    assert not (tmp_path / "runs").exists()


def test_finetune_opens_the_device_of_its_own_process(
    run: Run, write_manifest: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr("accelerate.PartialState", lambda cpu: SimpleNamespace(device="cuda:3"))
    monkeypatch.setattr("pipeline.devices.open_device", lambda name, threads: asked.append(name))
    monkeypatch.setattr("pipeline.stages.finetune.finetune_run", lambda folder: None)
    assert run("finetune", write_manifest()).returncode == 0
    assert asked == ["cuda:3"]


def test_verify_names_the_damage(run: Run, copied_run: RunFolder) -> None:
    column = copied_run.column("render")
    good = run("verify", column)
    assert (good.returncode, good.stdout) == (0, f"{column}: 4 samples, all whole\n")
    tar = column / "test-00000.tar"
    tar.write_bytes(tar.read_bytes()[:-512])
    assert "render/test-00000.tar: " in refusal(run("verify", column))


def test_a_bug_keeps_its_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["diffstyle360", "plan", "x.yaml"])
    monkeypatch.setattr("pipeline.cli.open_folder", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main()
