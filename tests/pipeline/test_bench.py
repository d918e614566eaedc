import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipeline.cli import cli
from pipeline.errors import PipelineError


def test_shards_measures_each_encoder(tmp_path: Path) -> None:
    shown = CliRunner().invoke(cli, ["bench", "shards", "--size", "32", "--json", f"{tmp_path}/a"])
    assert shown.exit_code == 0, shown.output
    told = json.loads((tmp_path / "a").read_text())
    for name in ("rgb png (fpng)", "rgb png, Pillow level 6", "depth npy"):
        assert told["figures"][name]["ms"] > 0
        assert name in shown.output
    assert told["figures"]["shard verified (all decoded)"]["MB/s"] > 0
    assert "cores" in told["machine"]


def test_workflow_measures_a_dry_run() -> None:
    shown = CliRunner().invoke(cli, ["bench", "workflow", "--shards", "3"])
    assert shown.exit_code == 0, shown.output
    assert "dry run of 3 shards" in shown.output


def test_workflow_needs_a_snakefile(tmp_path: Path) -> None:
    shown = CliRunner().invoke(cli, ["bench", "workflow", "--snakefile", f"{tmp_path}/none"])
    assert isinstance(shown.exception, PipelineError)


@pytest.mark.parametrize("family", ["eg3d", "panohead", "spherehead"])
def test_render_measures_its_stages(family: str, tmp_path: Path) -> None:
    arguments = ["bench", "render", family, "--small", "--runs", "1", "--threads", "1"]
    arguments += ["--device", "cpu", "--json", f"{tmp_path}/a"]
    shown = CliRunner().invoke(cli, arguments)
    assert shown.exit_code == 0, shown.output
    figures = json.loads((tmp_path / "a").read_text())["figures"]
    for way in ("reference", "exact", "fast"):
        parts = [figures[f"view: {part}, {way}"]["s"] for part in ("marching", "super-resolution")]
        assert 0 < sum(parts) < 5 * figures[f"view, {way}"]["s"]
        assert figures[f"identity: mapping, planes, {way}"]["% of the best rate"] > 0
    assert figures["view, reference"]["x reference"] == 1
    assert figures["image, exact beside reference"]["of the range, at most"] < 1e-4
    assert figures["image, fast beside reference"]["dB PSNR"] > 45
    assert figures["view: encoded"]["s"] > 0
    assert figures["shard of 2 x 8 views, exact"]["views/s written"] > 0
    assert figures["this machine: copy"]["GB/s"] > 0


def test_stylize_gives_what_its_plain_form_gives(tmp_path: Path) -> None:
    arguments = ["bench", "stylize", "demo", "--views", "9", "--steps", "2", "--identities", "2"]
    arguments += ["--threads", "1", "--device", "cpu", "--json", f"{tmp_path}/a"]
    shown = CliRunner().invoke(cli, arguments)
    assert shown.exit_code == 0, shown.output
    figures = json.loads((tmp_path / "a").read_text())["figures"]
    for form in ("plain", "plain, fused"):
        assert 0 < figures[f"sampler beside {form}"]["largest difference"] < 1e-3
        ratio = figures[form]["s"] / figures["sampler"]["s"]
        assert figures[f"sampler beside {form}"]["times faster"] == pytest.approx(ratio)
    assert figures["plain"]["s"] == pytest.approx(4 * figures["plain"]["s/identity"])
    assert figures["sampler: products and convolutions"]["GFLOP/s"] > 0


@pytest.mark.parametrize("verb", ["render", "shards", "stylize", "workflow"])
def test_help(verb: str) -> None:
    assert CliRunner().invoke(cli, ["bench", verb, "--help"]).exit_code == 0
