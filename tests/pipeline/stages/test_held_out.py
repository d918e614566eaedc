import csv
import shutil

import numpy as np
import pytest
from PIL import Image

from manifests.stylizer import Validation
from pipeline.folders import RunFolder
from pipeline.stages.finetune import finetune_run
from pipeline.stages.held_out import open_held_out
from tests.pipeline.stages.test_clips import alter

VALIDATION = Validation(split="test", every=1, clips=2, sample_every=2)


@pytest.mark.parametrize("precision", ["exact", "fast"])
def test_styles_are_measured_and_drawn(copied_run: RunFolder, precision: str) -> None:
    shutil.rmtree(copied_run.checkpoints)
    folder = alter(copied_run, validation=VALIDATION, precision=precision)
    finetune_run(folder)
    with (folder.checkpoints / "validation.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["1", "2"]
    assert all(np.isfinite(float(row["seen_styles"])) for row in rows)
    assert "unseen_styles" not in rows[0]
    [sheet] = folder.samples.iterdir()
    assert sheet.name == "step-000002.webp"
    with Image.open(sheet) as image:  # 2 clips of front, style, 2 true views, 2 outputs
        assert image.size == (6 * 32 + 5 * 2, 2 * 32 + 2)


def test_what_is_held_out_has_clips_of_its_own(made_run: RunFolder) -> None:
    assert open_held_out(made_run, 32) == {}
    held = alter(made_run, validation=VALIDATION.model_copy(update={"styles": ("statue",)}))
    assert held.run.finetuned_styles == ()
    clips = open_held_out(held, 32)
    assert clips.keys() == {"unseen_styles"}
    assert clips["unseen_styles"].batch([0]).keys == ["test-00000000"]
