"""The verbs around the renderer, as a user calls them."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import trimesh
from click.testing import CliRunner, Result
from PIL import Image

from eg3d_renderer import load_generator
from pipeline.cli import cli
from pipeline.shards.reader import Column
from tests.shipped import needs_demo_weights


def call(*arguments: object) -> Result:
    result = CliRunner().invoke(cli, [str(a) for a in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_render_without_a_manifest(tiny_panohead: Path, tmp_path: Path) -> None:
    arguments = ("render", "--generator", tiny_panohead, "--seeds", "17", "--rig", "orbit:3")
    assert call(*arguments, "--out", tmp_path / "heads").exit_code == 0
    column = Column(tmp_path / "heads" / "render")
    assert column.read(column.keys[0])["json"]["seed"] == 17
    before = (tmp_path / "heads" / "render" / "train-00000.tar").stat().st_mtime_ns
    assert call(*arguments, "--out", tmp_path / "heads").exit_code == 0
    assert (tmp_path / "heads" / "render" / "train-00000.tar").stat().st_mtime_ns == before


@needs_demo_weights
def test_render_of_the_trained_heads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ("render", "--generator", "demo:statue", "--seeds", "0-3", "--rig", "orbit:2")
    result = call(*arguments, "--resolution", 24, "--out", "demo")
    assert result.exit_code == 0, result.output
    column = Column(tmp_path / "demo" / "render")
    assert len(column.keys) == 4
    facts = column.read(column.keys[0])["json"]
    digest = load_generator("demo:statue").digest
    assert facts["generator"] == {"source": "demo:statue", "digest": digest, "style": "statue"}
    assert facts["resolution"] == facts["neural_rendering_resolution"] == 24
    assert facts["truncation_psi"] == 1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Missing argument 'MANIFEST', or option '--generator'"),
        (("--generator", "procedural"), "or option '--seeds'"),
        (("--generator", "procedural", "--seeds", "1"), "or option '--rig'"),
        (("--generator", "procedural", "--seeds", "1", "--rig", "orbit:4"), "option '--out'"),
        (("run.yaml", "--seeds", "1"), "give a manifest, or --generator and its options"),
    ],
)
def test_half_a_request_is_refused(arguments: tuple, message: str) -> None:
    result = call("render", *arguments)
    assert result.exit_code == 2
    assert message in result.output


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--generator": "nowhere.pkl"}, "generator.source: no such file: nowhere.pkl"),
        ({"--generator": "panohed"}, "'panohed': neither a name nor a file"),
        ({"--seeds": "5-1"}, "identities.train: seed range '5-1' is empty"),
        ({"--rig": "orbitt:4"}, "did you mean 'orbit'?"),
        ({"--rig": "orbit:4,elevation=95"}, "elevation"),
        ({"--psi": "1.5"}, "generator.truncation_psi: "),
    ],
)
def test_impossible_requests_are_one_line(changes: dict, message: str, tmp_path: Path) -> None:
    options = {
        "--generator": "procedural", "--seeds": "1", "--rig": "orbit:4", "--out": tmp_path / "out"
    } | changes  # fmt: skip
    asked = [str(word) for option in options.items() for word in option]
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.cli", "render", *asked],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.startswith("diffstyle360: error: ")
    assert message in line


class Escape:
    def __reduce__(self) -> tuple:
        return os.system, ("touch escaped",)


@pytest.mark.parametrize("verb", ["render", "convert", "mesh"])
def test_hostile_file_does_nothing(verb: str, tmp_path: Path) -> None:
    (tmp_path / "model.pkl").write_bytes(pickle.dumps({"G_ema": Escape()}))
    options = {
        "render": ["--generator", "model.pkl", "--seeds", "1", "--rig", "orbit:2", "--out", "out"],
        "convert": ["model.pkl", "out"],
        "mesh": ["--generator", "model.pkl", "--seeds", "1", "--out", "out"],
    }
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.cli", verb, *options[verb]],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert "posix.system, which was refused and not run" in line
    assert not (tmp_path / "escaped").exists()
    assert not list((tmp_path / "out").rglob("*.tar")) + list(tmp_path.rglob("*.safetensors"))


def test_convert_then_load(tiny_panohead: Path, tmp_path: Path) -> None:
    result = call("convert", tiny_panohead, tmp_path / "model")
    assert result.exit_code == 0
    assert "panohead, 220 tensors, 2.0 M parameters, images of 128" in result.output
    assert load_generator(tmp_path / "model").digest == load_generator(tiny_panohead).digest


def test_mesh_of_a_gan_and_of_a_procedural_head(tiny_panohead: Path, tmp_path: Path) -> None:
    for source, format in ((tiny_panohead, "ply"), ("procedural:statue", "glb")):
        arguments = ("--generator", source, "--seeds", "3", "--format", format)
        result = call("mesh", *arguments, "--resolution", 64, "--out", tmp_path)
        assert result.exit_code == 0, result.output
        path = tmp_path / f"seed0003.{format}"
        assert str(path) in result.output
        mesh = trimesh.load(path, force="mesh")
        assert mesh.is_watertight
        assert mesh.volume > 0
        assert np.abs(mesh.bounds).max() <= 0.51


def test_mesh_without_a_surface_is_refused(tiny_panohead: Path, tmp_path: Path) -> None:
    from eg3d_renderer import RendererError

    arguments = ("--generator", tiny_panohead, "--seeds", "3", "--level", "1e6")
    with pytest.raises(RendererError, match=r"no surface at level 1e\+06; densities reach from"):
        call("mesh", *arguments, "--resolution", 32, "--out", tmp_path)
    assert not list(tmp_path.iterdir())


def test_sheet_shows_a_column(tiny_panohead: Path, tmp_path: Path) -> None:
    arguments = ("--generator", tiny_panohead, "--seeds", "1-3", "--rig", "orbit:4")
    assert call("render", *arguments, "--out", tmp_path / "heads").exit_code == 0
    picture = tmp_path / "heads.webp"
    shown = call("sheet", tmp_path / "heads" / "render", picture, "--rows", 2, "--views", 3)
    assert shown.exit_code == 0
    with Image.open(picture) as image:
        assert image.size == (3 * 128 + 2 * 2, 2 * 128 + 2)


def test_export(tmp_path: Path) -> None:
    heads = tmp_path / "heads"
    arguments = ("--generator", "procedural", "--seeds", "1-2", "--rig", "random:2")
    assert call("render", *arguments, "--resolution", 16, "--out", heads).exit_code == 0
    result = call("export", heads / "render", tmp_path / "nerf")
    assert "2 identities" in result.output
    assert len(list((tmp_path / "nerf").glob("*/transforms.json"))) == 2
