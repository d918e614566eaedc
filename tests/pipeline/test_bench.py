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
def test_render_measures_its_steps(family: str, tmp_path: Path) -> None:
    arguments = ["bench", "render", family, "--small", "--device", "cpu", "--json"]
    shown = CliRunner().invoke(cli, [*arguments, f"{tmp_path}/a"])
    assert shown.exit_code == 0, shown.output
    figures = json.loads((tmp_path / "a").read_text())["figures"]
    parts = figures["view: marching"]["seconds"] + figures["view: super-resolution"]["seconds"]
    assert 0 < parts < 3 * figures["view"]["seconds"]
    assert figures["memory"]["MB"] > 0


@pytest.mark.parametrize("verb", ["render", "shards", "workflow"])
def test_help(verb: str) -> None:
    assert CliRunner().invoke(cli, ["bench", verb, "--help"]).exit_code == 0
