"""The verb that makes a stylizer out of published weights."""

import os
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from pipeline.cli import cli, main
from stylize.model import DiffStyle360
from tests.stylize.weights import layouts
from tests.stylize.weights.layouts import SMALL


def test_stylizer_from_diffportraits_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    layouts.save(Path("model_state.th"), layouts.fill(layouts.multiview(SMALL)))
    layouts.save(Path("back_head.th"), layouts.fill(layouts.back_view(SMALL)), wrapped=True)
    command = ["convert-stylizer", "model", "--multiview", "model_state.th"]
    command += ["--back-view", "back_head.th", "--dtype", "float32"]
    command += ["--window", "4", "--image-size", "16", "--lora-rank", "2"]
    command += ["--reference-timestep", "zero"]
    done = CliRunner().invoke(cli, command, catch_exceptions=False)
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["part", "tensors", "keys", "from"]
    assert lines[1].split() == ["denoiser", "208", "208", "model_state.th"]
    assert lines[-1].startswith("model: ")
    assert lines[-1].endswith(" M numbers, float32")
    model = DiffStyle360.from_pretrained("model")
    assert model.config.back_view
    assert model.config.reference_timestep == "zero"
    assert model.dtype == torch.float32


class Escape:
    def __reduce__(self) -> tuple:
        return os.system, ("touch escaped",)


@pytest.mark.parametrize("option", ["--base", "--multiview", "--back-view", "--motion", "--camera"])
def test_hostile_file_does_nothing(
    option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"a": Escape()}, "model.th")
    done = CliRunner().invoke(cli, ["convert-stylizer", "out", option, "model.th"])
    assert type(done.exception).__name__ == "StylizerError"
    assert "posix.system, which was refused and not run" in str(done.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["model.th"]


def test_errors_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("sd.ckpt").write_text("<html>")
    monkeypatch.setattr(
        "sys.argv", ["diffstyle360", "convert-stylizer", "out", "--base", "sd.ckpt"]
    )
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        "diffstyle360: error: sd.ckpt: a web page saved under this name; download the file itself\n"
    )
