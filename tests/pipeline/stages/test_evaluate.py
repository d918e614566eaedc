import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from manifests.schemas import METRICS, VERSION_KEY
from manifests.stylizer import Reference
from pipeline.errors import PipelineError
from pipeline.folders import RunFolder
from pipeline.judges import Judges
from pipeline.seeds import derive_seed
from pipeline.stages.averages import average, label_references
from pipeline.stages.evaluate import evaluate_run
from pipeline.stages.stylize import open_stylization, stylize_shard
from tests.pipeline.conftest import make_columns

Open = Callable[..., RunFolder]
NAMES = {"key", "reference", "style", "method", "view", "yaw"}
OF_VIEWS = {"psnr", "ssim", "sharpness", "silhouette", "spill", "warp", "step"}
OF_IDENTITIES = {"style_distance", "consistency", "seam"}
VIEWS = 4


def read_rows(folder: RunFolder) -> list[dict[str, Any]]:
    return pq.read_table(folder.metrics_path).to_pylist()


def measured(row: dict[str, Any]) -> set[str]:
    return {name for name, value in row.items() if value is not None} - NAMES


def test_rows_of_every_view_and_of_the_identity(made_run: RunFolder) -> None:
    table = pq.read_table(made_run.metrics_path)
    assert table.schema.equals(METRICS)
    assert table.schema.metadata[VERSION_KEY] == b"1"
    rows = table.to_pylist()
    for method in ("truth", "copy_content", "transfer_statistics", "diffstyle360"):
        *views, together = [row for row in rows if row["method"] == method]
        assert [row["view"] for row in views] == list(range(VIEWS))
        assert [row["yaw"] for row in views] == pytest.approx([0, 90, 180, -90], abs=1e-4)
        extra = {"depth_agreement"} if method == "truth" else set()
        lacks = {"psnr"} if method == "truth" else set()  # infinite: no error at all
        for row in views:
            assert measured(row) == OF_VIEWS - lacks | extra
        assert together["view"] is None
        assert measured(together) == OF_IDENTITIES
        assert {row["style"] for row in views} == {"statue"}
    assert len(rows) == 4 * (VIEWS + 1)


def test_evaluating_again_gives_the_same_figures(copied_run: RunFolder) -> None:
    before = copied_run.metrics_path.read_bytes()
    copied_run.metrics_path.unlink()
    assert evaluate_run(copied_run) == 4 * (VIEWS + 1)
    assert copied_run.metrics_path.read_bytes() == before


def copy_truth(folder: RunFolder, style: str) -> None:
    """Make the style's own column that which the stylizer is said to have written."""
    column = folder.column(f"stylized-{style}")
    shutil.rmtree(column, ignore_errors=True)
    column.mkdir()
    for path in folder.column(f"style-{style}").glob("test-*"):
        (column / path.name).write_bytes(path.read_bytes())


def test_the_truth_measures_as_the_truth(copied_run: RunFolder) -> None:
    """The stylized column replaced by the style's own: nothing is left to improve."""
    copy_truth(copied_run, "statue")
    evaluate_run(copied_run)
    rows = read_rows(copied_run)
    ours, truth = ([r for r in rows if r["method"] == m] for m in ("diffstyle360", "truth"))
    for row, bound in zip(ours, truth, strict=True):
        assert row | {"method": "truth", "depth_agreement": bound["depth_agreement"]} == bound
        assert row["psnr"] is None  # infinite
        for name in ("ssim", "sharpness", "consistency"):
            assert row[name] is None or row[name] == pytest.approx(1)


def test_identities_and_styles_are_recognised(open_variant: Open, tiny_model: Path) -> None:
    folder = open_variant(
        {
            "finetune": None,
            "identities": {"test": 2},
            "styles.zombie": {"source": "procedural:zombie"},
            "stylize.model": str(tiny_model),
            "stylize.references": {name: {"style": name} for name in ("statue", "zombie")},
        }
    )
    make_columns(folder)
    for style in ("statue", "zombie"):
        copy_truth(folder, style)
    evaluate_run(folder)
    rows = [row for row in read_rows(folder) if row["view"] is not None]
    shares = {
        method: [
            sum(row[name] for row in rows if row["method"] == method) / (2 * 2 * VIEWS)
            for name in ("own_identity", "own_style")
        ]
        for method in ("diffstyle360", "copy_content")
    }
    assert shares["diffstyle360"] == [1, 1]
    assert shares["copy_content"][1] < 1


def test_baselines_stand_beside_every_reference(copied_run: RunFolder) -> None:
    """References of one style that differ in their dials; their names may be those of methods."""
    settings = copied_run.run.stylize
    assert settings is not None
    references = {
        "statue": Reference(style="statue"),
        "truth": Reference(style="statue", presence=0.0),
    }
    changed = settings.model_copy(update={"references": references})
    run = copied_run.run.model_copy(update={"stylize": changed})
    folder = RunFolder(run, copied_run.path)
    shutil.copytree(folder.column("stylized-statue"), folder.column("stylized-truth"))
    before = read_rows(copied_run)
    assert evaluate_run(folder) == 2 * len(before)
    rows = read_rows(folder)
    for name in references:
        own = [row | {"reference": "statue"} for row in rows if row["reference"] == name]
        assert own == before


@pytest.mark.parametrize("same", [False, True])
def test_the_hints_identity_in_the_style_stands_beside_camera_hints(
    same: bool, open_variant: Open, tiny_model: Path
) -> None:
    """It is the truth itself where content happens to be that identity."""
    hinted = derive_seed(7, "hint", "test-00000000")
    folder = open_variant(
        {
            "seed": 7,
            "finetune": None,
            "identities": {"test": str(hinted) if same else 1},
            "stylize.model": str(tiny_model),
            "stylize.references.other": {"style": "statue", "hint": "camera"},
        }
    )
    make_columns(folder)
    stylization = open_stylization(folder, torch.device("cpu"))
    for name in ("statue", "other"):
        stylize_shard(stylization, name, "test-00000")
    evaluate_run(folder)
    rows = [row for row in read_rows(folder) if row["method"] == "style_on_hint"]
    assert {row["reference"] for row in rows} == {"other"}
    views = [row["psnr"] for row in rows if row["view"] is not None]
    assert views == [None] * VIEWS if same else all(5 < psnr < 40 for psnr in views)
    lines = dict(
        average(
            pq.read_table(folder.metrics_path), label_references(folder.run.stylize.references)
        ).groups
    )["statue"]
    assert [line.label for line in lines][-2:] == [
        "style_on_hint",
        "diffstyle360, other (hint camera)",
    ]


def test_judges_add_their_measures(copied_run: RunFolder) -> None:
    def look(images: torch.Tensor) -> torch.Tensor:
        features = torch.nn.functional.adaptive_avg_pool2d(images, 2).flatten(1)
        return torch.nn.functional.normalize(features, dim=-1)

    def differ(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return (first - second).abs().mean((1, 2, 3))

    judges: Any = Judges
    names = ("clip", "csd", "arcface", "inception")
    evaluate_run(copied_run, judges(lpips=differ, **dict.fromkeys(names, look)))
    rows = {(row["method"], row["view"]): row for row in read_rows(copied_run) if row["key"]}
    front, back = rows["diffstyle360", 0], rows["diffstyle360", 2]
    added = {"clip", "csd", "lpips", "content_lpips", "identity", "leakage"}
    assert measured(front) == OF_VIEWS | added
    assert measured(back) == OF_VIEWS | added - {"identity", "leakage"}  # no face there
    assert rows["truth", 0]["leakage"] == pytest.approx(0, abs=1e-6)
    assert rows["truth", 0]["lpips"] == 0
    assert rows["copy_content", 0]["content_lpips"] == 0
    assert rows["copy_content", 0]["identity"] == pytest.approx(1)
    sets = {row["method"]: row for row in read_rows(copied_run) if row["key"] is None}
    assert measured(sets["diffstyle360"]) == {"fid", "kid", "artfid"}
    assert sets["truth"]["fid"] == pytest.approx(0, abs=1e-9)
    ours = [rows["diffstyle360", view]["content_lpips"] for view in range(VIEWS)]
    expected = (1 + sum(ours) / VIEWS) * (1 + sets["diffstyle360"]["fid"])
    assert sets["diffstyle360"]["artfid"] == pytest.approx(expected)


def test_without_truth_depth_or_mask_less_is_measured(
    tmp_path: Path, open_variant: Open, tiny_model: Path
) -> None:
    Image.new("RGB", (40, 40), (200, 30, 30)).save(tmp_path / "red.png")
    folder = open_variant(
        {
            "finetune": None,
            "styles": {},
            "outputs": {"resolution": 32, "depth": "none", "mask": False},
            "stylize": {
                "model": str(tiny_model),
                "references": {"red": {"image": "red.png"}},
                "steps": 2,
            },
        }
    )
    make_columns(folder)
    stylize_shard(open_stylization(folder, torch.device("cpu")), "red", "test-00000")
    evaluate_run(folder)
    for row in read_rows(folder):
        assert row["style"] is None
        expected = {"silhouette", "spill", "step"}
        assert measured(row) == (
            expected if row["view"] is not None else {"style_distance", "seam"}
        )


def test_nothing_to_evaluate_is_said(open_variant: Open) -> None:
    with pytest.raises(PipelineError, match="no stylize section"):
        evaluate_run(open_variant({"stylize": None}))
