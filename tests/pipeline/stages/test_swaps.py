"""What outputs follow, told of painters that follow one thing, and of a run's own stylizer."""

import json
import math
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from pipeline.cli import cli
from pipeline.errors import PipelineError
from pipeline.folders import RunFolder
from pipeline.judges import Pictures
from pipeline.stages.stylize import open_stylizer
from pipeline.stages.swaps import (
    MEASURES,
    draw_case,
    measure_case,
    measure_swaps,
    summarize,
)

STYLES = ["style-a", "style-b"]
CASE = draw_case(STYLES, 360, 0)


def render(column: str, seed: int, instance: int) -> Pictures:
    """A look and an instance in the upper half, an identity in the lower half."""
    images = torch.zeros(2, 3, 8, 8)
    for rows, of in ((slice(0, 3), column), (slice(3, 4), instance), (slice(4, 8), seed)):
        draw = torch.Generator().manual_seed(zlib.crc32(str(of).encode()))
        size = len(range(*rows.indices(8)))
        images[:, :, rows] = torch.rand(3, size, 8, generator=draw)
    return Pictures(images, torch.ones(2, 1, 8, 8))


def lend(column: str, seed: int, instance: int) -> torch.Tensor:
    return render(column, seed, instance).images[0]


def perfect(content: int, image: torch.Tensor) -> torch.Tensor:
    views = render("render", content, content).images.clone()
    views[:, :, :4] = image[:, :4]
    return views


def copying(content: int, image: torch.Tensor) -> torch.Tensor:
    return render("style-a", content, CASE.instance).images


def leaking(content: int, image: torch.Tensor) -> torch.Tensor:
    """The identity is for the greater part that of the style image."""
    views = perfect(content, image)
    views[:, :, 4:] = 0.3 * views[:, :, 4:] + 0.7 * image[:, 4:]
    return views


Painter = Callable[[int, torch.Tensor], torch.Tensor]


@pytest.mark.parametrize(
    ("painter", "expected"),
    [(perfect, (1, 1, 1, 0)), (copying, (0, 0, 1, 0)), (leaking, (1, 1, 1, 0.49 / 0.09))],
)
def test_painters_are_told_apart(painter: Painter, expected: tuple[float, ...]) -> None:
    rows = [measure_case(CASE, render, lend, painter)]
    found = summarize(rows)
    for name, value in zip(MEASURES[:3], expected, strict=False):
        assert found[name] == pytest.approx(value, abs=0.01), name
    assert found["leak"] == pytest.approx(expected[3], rel=0.3, abs=1e-9)


def test_what_there_is_not_is_not_measured() -> None:
    case = draw_case(["style-a"], 360, 0)
    assert case.other_style is None

    def fixed(column: str, seed: int, instance: int) -> Pictures:
        return render(column, seed, 0)

    found = measure_case(case, fixed, lend, perfect)
    assert math.isnan(found["style_follows"])
    assert math.isnan(found["instance_follows"])  # all instances look alike
    assert found["identity_follows"] == 1


def test_styles_take_turns_and_are_exchanged_for_every_other() -> None:
    cases = [draw_case(["x", "y", "z"], 1, number) for number in range(6)]
    pairs = {(case.style, case.other_style) for case in cases}
    assert pairs == {(a, b) for a in "xyz" for b in "xyz" if a != b}
    assert cases[4] == draw_case(["x", "y", "z"], 1, 4)
    seeds = [value for case in cases for value in vars(case).values() if isinstance(value, int)]
    assert len(set(seeds)) == 6 * 6


def test_a_runs_stylizer_is_measured(copied_run: RunFolder) -> None:
    stylizer = open_stylizer(copied_run.stylizer, torch.device("cpu"), "exact")
    rows = measure_swaps(copied_run, stylizer, cases=1, views=2)
    assert rows[0]["style"] == "style-statue"
    assert 0 <= rows[0]["identity_follows"] <= 1
    assert rows[0]["leak"] >= 0
    written = json.loads(copied_run.swaps_path.read_text())
    assert written["views"] == 2
    assert written["cases"][0]["style_follows"] is None
    assert written["cases"][0]["leak"] == rows[0]["leak"]
    with pytest.raises(PipelineError, match="3 views do not spread evenly over 4"):
        measure_swaps(copied_run, stylizer, cases=1, views=3)


def test_the_command_needs_a_stylizer(write_manifest: Callable[..., Path], tmp_path: Path) -> None:
    told = CliRunner().invoke(cli, ["swaps", str(write_manifest()), "--out", str(tmp_path / "r")])
    assert isinstance(told.exception, PipelineError)
    assert "no stylizer there; run `diffstyle360 finetune` first" in str(told.exception)
