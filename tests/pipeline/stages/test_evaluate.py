import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from manifests.schemas import METRICS, VERSION_KEY
from pipeline.errors import PipelineError
from pipeline.folders import RunFolder
from pipeline.stages.evaluate import evaluate_run
from pipeline.stages.stylize import open_stylization, stylize_shard
from tests.pipeline.conftest import make_columns

Open = Callable[..., RunFolder]


def test_a_row_per_identity_reference_and_method(made_run: RunFolder) -> None:
    table = pq.read_table(made_run.metrics_path)
    assert table.schema.equals(METRICS)
    assert table.schema.metadata[VERSION_KEY] == b"1"
    rows = {row["method"]: row for row in table.to_pylist()}
    assert set(rows) == {"diffstyle360", "copy_content", "transfer_statistics"}
    for row in rows.values():
        assert all(value is not None for value in row.values()), row


def test_evaluating_again_gives_the_same_figures(copied_run: RunFolder) -> None:
    before = copied_run.metrics_path.read_bytes()
    copied_run.metrics_path.unlink()
    assert evaluate_run(copied_run) == 3
    assert copied_run.metrics_path.read_bytes() == before


def test_the_truth_measures_as_the_truth(copied_run: RunFolder) -> None:
    """The stylized column replaced by the style's own: nothing is left to improve."""
    for path in copied_run.column("stylized-statue").iterdir():
        path.unlink()
    for path in copied_run.column("style-statue").glob("test-*"):
        (copied_run.column("stylized-statue") / path.name).write_bytes(path.read_bytes())
    evaluate_run(copied_run)
    row = next(
        row
        for row in pq.read_table(copied_run.metrics_path).to_pylist()
        if row["method"] == "diffstyle360"
    )
    assert row["psnr"] is None  # infinite: no error at all
    assert row["ssim"] == pytest.approx(1)
    assert row["sharpness"] == pytest.approx(1)
    assert row["consistency"] == pytest.approx(1)


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
    for row in pq.read_table(folder.metrics_path).to_pylist():
        measured = {name for name, value in row.items() if value is not None}
        assert measured == {"key", "reference", "method", "style_distance"}, json.dumps(row)


def test_nothing_to_evaluate_is_said(open_variant: Open) -> None:
    with pytest.raises(PipelineError, match="no stylize section"):
        evaluate_run(open_variant({"stylize": None}))


def test_without_torchmetrics_the_extra_is_named() -> None:
    code = "import sys; sys.modules['torchmetrics'] = None; import pipeline.stages.evaluate"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    last = done.stderr.splitlines()[-1]
    assert "evaluate takes torchmetrics: pip install 'diffstyle360[metrics]'" in last
