"""Columns that `stylize --content` wrote, evaluated against folders laid out as the data sets."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.cli import cli
from pipeline.errors import PipelineError
from pipeline.stages.protocols import Folders, evaluate_folders

VIEWS = 3
Evaluate = Callable[..., list[dict[str, Any]]]


def draw(seed: int, path: Path) -> None:
    """A head-like blot on white, not square."""
    rows, columns = np.mgrid[:40, :48]
    inside = (rows - 20) ** 2 + (columns - 24 - seed % 3) ** 2 < 200
    colours = np.random.default_rng(seed).integers(0, 200, (40, 48, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.where(inside[..., None], colours, 255).astype(np.uint8)).save(path)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """Portraits (as of FFHQ), identities from around (as exported from RenderMe-360), stylized."""
    base = tmp_path_factory.mktemp("protocols")
    draw(9, base / "ink.png")
    for index in range(2):
        draw(index, base / f"portraits/{index:05d}.png")
        for view in range(VIEWS):
            draw(10 * index + view, base / f"around/000{index}/cam_{view:02d}.png")
    for content in ("portraits", "around"):
        arguments = ["--content", base / content, "--style", base / "ink.png", "--steps", "1"]
        options = ["--model", tiny_model, "--views", "4", "--out", base / f"out-{content}"]
        cli.main(["stylize", *map(str, arguments + options)], standalone_mode=False)
    return base


@pytest.fixture
def evaluate(made: Path, tmp_path: Path) -> Evaluate:
    def run(protocol: str, content: str = "", **options: Any) -> list[dict[str, Any]]:
        content = content or {"ffhq": "portraits", "renderme360": "around"}[protocol]
        column = made / f"out-{content}" / "stylized-ink"
        folders = Folders(protocol, str(made / content), (column,), **options)
        evaluate_folders(folders, tmp_path / "metrics.parquet")
        return pq.read_table(tmp_path / "metrics.parquet").to_pylist()

    return run


def views_of(rows: list[dict[str, Any]], method: str) -> list[dict[str, Any]]:
    return [row for row in rows if row["method"] == method and row["view"] is not None]


def test_portraits_are_compared_from_the_front(evaluate: Evaluate) -> None:
    rows = evaluate("ffhq")
    ours = views_of(rows, "diffstyle360")
    assert [row["view"] for row in ours] == [0, 1, 2, 3] * 2
    assert [row["yaw"] for row in ours[:4]] == pytest.approx([0, 90, 180, -90], abs=1e-4)
    assert [row["silhouette"] is not None for row in ours] == [True, False, False, False] * 2
    for method in ("copy_content", "transfer_statistics"):
        assert [row["view"] for row in views_of(rows, method)] == [0, 0]
    assert all(row["silhouette"] == 1 for row in views_of(rows, "copy_content"))
    together = [row for row in rows if row["view"] is None]
    assert len(together) == 3 * 2
    assert all(row["style_distance"] > 0 for row in together)
    assert {row["key"] for row in rows} == {"00000", "00001"}
    assert {row["reference"] for row in rows} == {"ink"}


def test_views_around_are_compared_one_by_one(evaluate: Evaluate) -> None:
    rows = evaluate("renderme360")
    for method in ("diffstyle360", "copy_content", "transfer_statistics"):
        views = views_of(rows, method)
        assert [row["view"] for row in views] == [0, 1, 2] * 2
        assert [row["yaw"] for row in views[:3]] == pytest.approx([0, 120, -120])  # even
        assert all(row["silhouette"] is not None and row["step"] is not None for row in views)
    assert not any(row["psnr"] or row["warp"] for row in rows)  # no truth, no depth


def test_an_identity_may_say_its_cameras(made: Path, evaluate: Evaluate) -> None:
    labels = np.tile(np.eye(5).ravel(), (VIEWS, 1))
    labels[:, 3], labels[:, 11] = [0, 1, 0], [1, 1, -1]  # positions x and z
    path = made / "around/0000/cameras.json"
    try:
        path.write_text(json.dumps(labels.tolist()))
        yaws = [row["yaw"] for row in views_of(evaluate("renderme360"), "diffstyle360")]
        assert yaws == pytest.approx([0, 45, 180, 0, 120, -120])
        path.write_text(json.dumps(labels[:2].tolist()))
        with pytest.raises(PipelineError, match="wants 3 labels of 25"):
            evaluate("renderme360")
        path.write_text("[[1, 2], 3]")
        with pytest.raises(PipelineError, match="not JSON of camera labels"):
            evaluate("renderme360")
    finally:
        path.unlink()


def test_masks_are_laid_out_as_the_content(made: Path, tmp_path: Path, evaluate: Evaluate) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    for index in range(2):
        Image.new("L", (48, 40), 255).save(masks / f"{index:05d}.png")
    ours = views_of(evaluate("ffhq", masks=str(masks)), "copy_content")
    assert all(0 < row["silhouette"] < 0.7 for row in ours)  # the blot in all of the image
    (masks / "00001.png").unlink()
    with pytest.raises(PipelineError, match=r"00001\.png: its mask is not in"):
        evaluate("ffhq", masks=str(masks))


def test_what_does_not_belong_together_is_said(made: Path, evaluate: Evaluate) -> None:
    with pytest.raises(PipelineError, match="3 views, but ffhq compares portraits"):
        evaluate("ffhq", "around")
    with pytest.raises(PipelineError, match="1 views, but renderme360 compares 4"):
        evaluate("renderme360", "portraits")
    draw(8, made / "other.png")
    with pytest.raises(PipelineError, match="its style image was not given"):
        evaluate("ffhq", styles=(made / "other.png",))
    assert evaluate("ffhq", styles=(made / "other.png", made / "ink.png"))
    column = made / "out-portraits/stylized-ink"
    with pytest.raises(PipelineError, match="its content is not in"):
        evaluate_folders(Folders("ffhq", str(made / "around"), (column,)), made / "m.parquet")
