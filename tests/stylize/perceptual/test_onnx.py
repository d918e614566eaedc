import sys

import pytest
import torch
import torch.nn.functional as F

from stylize.config import StylizerError
from stylize.perceptual import load_onnx
from tests.stylize.perceptual.networks import write_onnx

CPU = torch.device("cpu")


@pytest.mark.parametrize("batch", ["N", 1])
def test_features_are_the_networks(tmp_path, images, batch):
    network = load_onnx(write_onnx(tmp_path / "n.onnx", 8, batch), 32, CPU)
    features = network(images)
    assert features.shape == (3, 6)
    small = F.interpolate(images, (8, 8), mode="bilinear", antialias=True)
    torch.testing.assert_close(network(small), features)
    swapped = network(images.flip(0))  # linear, and one row an image
    torch.testing.assert_close(swapped, features.flip(0))
    torch.testing.assert_close(network(images * 0.5), features * 0.5)


def test_an_open_size_is_the_default(tmp_path, images):
    network = load_onnx(write_onnx(tmp_path / "open.onnx", "S"), 8, CPU)
    fixed = load_onnx(write_onnx(tmp_path / "fixed.onnx", 8), 99, CPU)
    torch.testing.assert_close(network(images), fixed(images))


def test_other_files_are_refused(tmp_path, images):
    with pytest.raises(StylizerError, match="no such file"):
        load_onnx(tmp_path / "none.onnx", 8, CPU)
    (tmp_path / "garbage.onnx").write_bytes(b"garbage")
    with pytest.raises(StylizerError, match="not a readable ONNX file"):
        load_onnx(tmp_path / "garbage.onnx", 8, CPU)
    with pytest.raises(StylizerError, match="not one image"):
        load_onnx(write_onnx(tmp_path / "four.onnx", 8, channels=4), 8, CPU)
    with pytest.raises(StylizerError, match="fails on an image"):
        load_onnx(write_onnx(tmp_path / "open.onnx", "S"), 12, CPU)(
            images
        )  # nine parts do not fit its matrix
    with pytest.raises(StylizerError, match="not finite"):
        load_onnx(write_onnx(tmp_path / "n.onnx"), 8, CPU)(images * torch.nan)


def test_without_onnxruntime_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(StylizerError, match=r"pip install 'diffstyle360\[perceptual\]'"):
        load_onnx(tmp_path / "any.onnx", 8, CPU)
