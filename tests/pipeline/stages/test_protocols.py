"""Columns that `stylize --content` wrote, evaluated against folders laid out as the data sets."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.cli import cli
from pipeline.errors import PipelineError
from pipeline.folders import RunFolder
from pipeline.inputs.alignment import TEMPLATE
from pipeline.inputs.listing import list_content
from pipeline.shards.codecs import to_uint8
from pipeline.shards.reader import Column
from pipeline.shards.writer import ShardWriter
from pipeline.stages import protocols
from pipeline.stages.protocols import Folders, evaluate_folders
from tests.pipeline.inputs.test_archives import write_tar

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
    draw(3, base / "nested/images/00000/00003.png")
    draw(4, base / "nested/images/01000/01004.png")
    for content in ("portraits", "around", "nested"):
        arguments = ["--content", base / content, "--style", base / "ink.png", "--steps", "1"]
        options = ["--model", tiny_model, "--views", "4", "--out", base / f"out-{content}"]
        options += ["--portraits"] if content == "nested" else []
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


def test_portraits_lie_at_any_depth(made: Path, tmp_path: Path, evaluate: Evaluate) -> None:
    ours = views_of(evaluate("ffhq", "nested"), "diffstyle360")
    keys = ["images-00000-00003", "images-01000-01004"]
    assert [row["key"] for row in ours] == [keys[0]] * 4 + [keys[1]] * 4
    masks = tmp_path / "masks"
    for name in ("00000/00003.png", "01000/01004.png"):
        (masks / "images" / name).parent.mkdir(parents=True)
        Image.new("L", (48, 40), 255).save(masks / "images" / name)
    ours = views_of(evaluate("ffhq", "nested", masks=str(masks)), "copy_content")
    assert all(0 < row["silhouette"] < 0.7 for row in ours)


def test_aligned_portraits_are_compared_as_they_were_seen(
    made: Path, tmp_path: Path, tiny_model: Path
) -> None:
    """The copied content is the aligned picture, and a mask goes where the content went."""
    content, masks = tmp_path / "in", tmp_path / "masks"
    draw(1, content / "a.png")
    face = 20 * TEMPLATE + [14, 10]
    (content / "a.landmarks.json").write_text(json.dumps(face.tolist()))
    mask = np.zeros((40, 48), np.uint8)
    mask[10:30, 14:24] = 255  # the left half of the crop
    masks.mkdir()
    Image.fromarray(mask).save(masks / "a.png")
    asked = ["--content", content, "--style", made / "ink.png", "--steps", 1, "--views", 4]
    asked += ["--model", tiny_model, "--align", "--out", tmp_path / "out"]
    cli.main(["stylize", *map(str, asked)], standalone_mode=False)
    column = Column(tmp_path / "out" / "stylized-ink")
    folders = Folders("ffhq", str(content), (column.folder,), masks=str(masks))
    opened = protocols._Opened(
        folders,
        content=protocols._list_by_name(folders.content, "ffhq"),
        masks=protocols._list_by_name(str(masks), "ffhq"),
        styles=dict(protocols._read_styles(folders)),
    )
    meta = column.read("a", ["json"])["json"]
    subject = protocols._open_subject(opened, "a", meta, 20)
    crop = np.asarray(Image.open(content / "a.png"))[10:30, 14:34]
    np.testing.assert_array_equal(to_uint8(subject.content.images), crop[None])
    assert (subject.content.mask[0, 0, :, :9] == 1).all()
    assert (subject.content.mask[0, 0, :, 11:] == 0).all()
    evaluate_folders(folders, tmp_path / "metrics.parquet")


def test_content_is_what_was_stylized(made: Path, evaluate: Evaluate) -> None:
    draw(5, made / "portraits/00001.png")
    try:
        with pytest.raises(PipelineError, match=r"00001\.png: changed since it was stylized"):
            evaluate("ffhq")
    finally:
        draw(1, made / "portraits/00001.png")


def test_column_of_a_run_has_its_own_evaluation(made: Path, made_run: RunFolder) -> None:
    column = made_run.column("stylized-statue")
    with pytest.raises(PipelineError, match="of a run; evaluate takes the manifest of that"):
        evaluate_folders(Folders("ffhq", str(made / "portraits"), (column,)), made / "m.parquet")


def test_columns_have_samples(made: Path, tmp_path: Path) -> None:
    def refuse(column: Path, told: str) -> None:
        with pytest.raises(PipelineError, match=told):
            evaluate_folders(Folders("ffhq", str(made / "portraits"), (column,)), tmp_path / "m")

    pq.write_table(pa.table({"a": [1]}), tmp_path / "metrics.parquet")  # as of an evaluation
    refuse(tmp_path, "no shards there; --stylized takes a column: stylized-NAME")
    with ShardWriter(tmp_path / "stylized-ink", "train-00000", {}) as writer:
        writer.fail("a", "empty", "", seed=1, split="train")
    refuse(tmp_path / "stylized-ink", "stylized-ink: no samples to evaluate: all failed")


def test_row_of_a_table_names_its_content(made: Path, tiny_model: Path, tmp_path: Path) -> None:
    """By its key, where names are the same in two tars."""
    for index, name in enumerate(("a", "b")):
        draw(index, tmp_path / "face.png")
        write_tar(tmp_path / f"{name}.tar", {"face.png": (tmp_path / "face.png").read_bytes()})
    keys = [one.key for one in list_content(str(tmp_path))]
    rows = [f"{key},{made / 'ink.png'}" for key in keys]
    (tmp_path / "jobs.csv").write_text("\n".join(["content,style", *rows]))
    arguments = ["--content", tmp_path, "--table", tmp_path / "jobs.csv", "--steps", "1"]
    options = ["--model", tiny_model, "--views", "4", "--out", tmp_path / "out"]
    cli.main(["stylize", *map(str, arguments + options)], standalone_mode=False)
    folders = Folders(
        "ffhq", str(tmp_path), (tmp_path / "out/stylized",), styles=(made / "ink.png",)
    )
    evaluate_folders(folders, tmp_path / "m.parquet")
    assert len(set(pq.read_table(tmp_path / "m.parquet")["key"].to_pylist())) == 2


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
    with pytest.raises(PipelineError, match="around, every image of which is a portrait"):
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
