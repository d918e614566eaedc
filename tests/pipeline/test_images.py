from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from pipeline.errors import PipelineError
from pipeline.images import read_image, resize, to_model
from pipeline.shards.codecs import to_uint8


@given(hnp.arrays(np.uint8, st.tuples(st.just(2), st.just(4), st.just(4), st.just(3))))
def test_to_model_is_undone_by_to_uint8(images: np.ndarray) -> None:
    tensor = to_model(images, 4)
    assert tensor.shape == (2, 3, 4, 4)
    assert tensor.abs().max() <= 1
    np.testing.assert_array_equal(to_uint8(tensor), images)


def test_resize_averages_what_it_shrinks() -> None:
    checks = torch.tensor([[-1.0, 1.0], [1.0, -1.0]]).repeat(4, 4)[None, None]
    assert resize(checks, 4)[..., 1:-1, 1:-1].abs().max() < 1e-6


def test_image_is_upright_on_white_and_square(tmp_path: Path) -> None:
    wide = Image.new("RGBA", (6, 4), (255, 0, 0, 255))
    wide.paste((0, 0, 255, 0), (0, 0, 6, 2))  # the upper half shows the paper
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    wide.save(tmp_path / "a.png", exif=exif)
    image = read_image(tmp_path / "a.png")
    assert image.shape == (4, 4, 3)
    assert (image[0] == [255, 0, 0]).all()
    assert (image[-1] == 255).all()


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "I;16", "1", "LA"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "a.tiff"
    Image.new(mode, (5, 5)).save(path)
    assert read_image(path).shape == (5, 5, 3)


def test_unreadable_image_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="No such file"):
        read_image(tmp_path / "none.png")
    Image.effect_noise((64, 64), 50).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:900])
    (tmp_path / "text.png").write_text("no image")
    for name in ("cut.png", "text.png"):
        with pytest.raises(PipelineError, match=f"{name}: not an image"):
            read_image(tmp_path / name)


def test_too_many_pixels_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.images.MAX_PIXELS", 10)
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    with pytest.raises(PipelineError, match="4x4 pixels, over the limit"):
        read_image(tmp_path / "a.png")
