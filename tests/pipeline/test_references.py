from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import PipelineError
from pipeline.folders import RunFolder
from pipeline.references import open_reference


def test_style_gives_each_sample_its_own(made_run: RunFolder) -> None:
    style_of = open_reference(made_run, "statue")
    images = [style_of(f"train-0000000{index}") for index in range(3)]
    assert {image.shape for image in images} == {(32, 32, 3)}
    assert len({image.tobytes() for image in images}) == 3


def test_image_is_the_same_for_all(tmp_path: Path, open_variant: Callable[..., RunFolder]) -> None:
    Image.effect_noise((24, 24), 50).convert("RGB").save(tmp_path / "mine.png")
    folder = open_variant({"stylize.references": {"mine": {"image": "mine.png"}}})
    style_of = open_reference(folder, "mine")
    np.testing.assert_array_equal(style_of("a"), style_of("b"))
    assert style_of("a").shape == (24, 24, 3)


def test_unknown_reference_is_named(made_run: RunFolder) -> None:
    with pytest.raises(PipelineError, match="no reference 'statu' in the run manifest; there: st"):
        open_reference(made_run, "statu")
