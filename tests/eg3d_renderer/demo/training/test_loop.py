import csv
import dataclasses
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import eg3d_renderer as er
from eg3d_renderer.demo.training import __main__ as command
from eg3d_renderer.demo.training import card, loop
from eg3d_renderer.demo.training import model as made
from eg3d_renderer.demo.training.__main__ import main
from eg3d_renderer.demo.training.loop import Settings, rate, train
from eg3d_renderer.demo.weights import style_names
from eg3d_renderer.generators import load_demo

TINY = Settings(
    styles=("natural", "statue"),
    steps=6,
    batch=4,
    fresh=2,
    memory=6,
    rays=64,
    looks=32,
    sizes=((8, 0.0), (16, 0.5)),
    lessons=3,
    checkpoint_every=3,
)
ALONE = dataclasses.replace(TINY, styles=("natural",), sizes=((16, 0.0),), looks=64, fresh=1)


@pytest.fixture(autouse=True)
def small_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(made.INIT_KWARGS, "channel_base", 256)
    monkeypatch.setitem(made.INIT_KWARGS, "channel_max", 16)
    monkeypatch.setattr(command, "Settings", partial(Settings, sizes=((16, 0.0),), lessons=3))


def test_training_goes_on_as_if_never_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "EVERY", 1)
    whole = train(TINY, tmp_path / "whole", workers=0)
    with monkeypatch.context() as killed:
        killed.setattr(loop, "measure", stop_at(5))
        with pytest.raises(KeyboardInterrupt):
            train(TINY, tmp_path / "parts", workers=0)
    resumed = train(TINY, tmp_path / "parts", workers=0)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    assert timeless(tmp_path / "whole") == timeless(tmp_path / "parts")
    assert [row["step"] for row in timeless(tmp_path / "parts")] == list("123456")


def stop_at(call: int) -> Callable[..., torch.Tensor]:
    measure, calls = loop.measure, iter(range(1, call + 1))

    def stopped(*inputs: Any) -> torch.Tensor:
        if next(calls) == call:
            raise KeyboardInterrupt
        return measure(*inputs)

    return stopped


def timeless(folder: Path) -> list[dict[str, str]]:
    """The rows of the curves but for the time they took."""
    with (folder / "curves.csv").open(newline="") as file:
        return [row | {"seconds": ""} for row in csv.DictReader(file)]


def test_it_learns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "WARM_UP", 1)
    monkeypatch.setattr(loop, "EVERY", 5)
    losses = []
    for steps in (1, 25):
        train(dataclasses.replace(ALONE, steps=steps), tmp_path / str(steps), workers=0)
        losses.append(float(timeless(tmp_path / str(steps))[-1]["colour"]))
    assert losses[1] < 0.9 * losses[0]


def test_a_loss_that_is_not_finite_stops_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "measure", lambda *_: torch.full([5], torch.nan))
    with pytest.raises(FloatingPointError, match="step 0: the loss is not finite"):
        train(ALONE, tmp_path, workers=0)
    assert not (tmp_path / "checkpoint.pt").exists()


def test_planes_grow() -> None:
    assert [TINY.size(step) for step in range(6)] == [8, 8, 8, 16, 16, 16]


def test_the_rate_rises_and_falls() -> None:
    rates = [rate(step, 1000) for step in range(1000)]
    assert rates[0] < 0.02
    assert max(rates) > 0.95
    assert rates[-1] == pytest.approx(0.01, abs=1e-3)


def test_a_checkpoint_of_other_settings_is_refused(tmp_path: Path) -> None:
    train(dataclasses.replace(ALONE, steps=1), tmp_path, workers=0)
    with pytest.raises(er.RendererError, match=r"made with Settings.*steps=1,"):
        train(ALONE, tmp_path, workers=0)


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    train(dataclasses.replace(ALONE, steps=1), tmp_path, workers=0)
    checkpoint = tmp_path / "checkpoint.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(er.RendererError, match=r"unreadable .*; remove it to begin again"):
        train(dataclasses.replace(ALONE, steps=1), tmp_path, workers=0)


def test_the_command_writes_generators(tmp_path: Path) -> None:
    arguments = [str(tmp_path), "--steps", "1", "--workers", "0", "--style", "joker"]
    assert CliRunner().invoke(main, arguments).exit_code == 0
    generator = er.load_generator(tmp_path / "joker")
    view = generator.synthesis(generator.mapping(er.latents([0], 48)), er.cameras.orbit(1), 16)
    assert view["image"].shape == (1, 3, 16, 16)
    assert view["image"] is not view["image_raw"]
    assert torch.equal(view["image"], view["image_raw"])
    assert torch.tensor(1e-40) * 1 > 0  # denormal numbers are as they were
    again = CliRunner().invoke(main, arguments)
    assert again.exit_code == 2
    assert again.output.startswith("error: ")
    assert again.output.endswith("joker: exists; name another folder, or remove it\n")


def test_the_command_exports_all_styles_as_one_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(card, "HEADS", 1)
    monkeypatch.setattr(card, "VIEWS", 1)
    folder = tmp_path / "weights"
    arguments = [str(tmp_path), "--steps", "1", "--workers", "0", "--export", str(folder)]
    two = ["--style", "joker", "--style", "natural"]
    told = CliRunner().invoke(main, [*arguments, *two[:2]])
    assert told.exit_code == 2
    assert "--export needs the style 'natural'" in told.output
    for _ in range(2):  # what was exported before is replaced
        told = CliRunner().invoke(main, [*arguments, *two])
        assert told.exit_code == 0, told.output
    assert f"wrote {folder}" in told.output
    assert style_names(folder) == ("natural", "joker")
    assert load_demo("joker", folder=folder).style == "joker"
    assert not (tmp_path / "joker").exists()
    told = (folder / "README.md").read_text()
    figures = json.loads((tmp_path / "figures" / "figures.json").read_text())["styles"]
    for style in ("natural", "joker"):
        assert f"| {style} | {figures[style]['psnr']:.3g} | " in told
    assert "in 2\nstyles" in told
    assert "steps 1, batch 16" in told
    assert (folder / "curves.csv").read_text() == (tmp_path / "curves.csv").read_text()
    assert Image.open(folder / "heads.webp").format == "WEBP"
