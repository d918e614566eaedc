from pathlib import Path

import pytest
import torch

from pipeline.judges import Judges, Pictures, open_judges
from stylize import StylizerError
from tests.stylize.perceptual.networks import csd_state, write_lpips, write_onnx

CPU = torch.device("cpu")


@pytest.fixture
def pictures() -> Pictures:
    images = torch.rand(18, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return Pictures(images, torch.ones(18, 1, 32, 32))


def test_all_that_is_given_is_asked(tmp_path: Path, pictures: Pictures) -> None:
    torch.save(csd_state(), tmp_path / "csd.pth")
    network = write_onnx(tmp_path / "network.onnx")
    lpips = write_lpips(tmp_path)
    judges = open_judges(
        CPU, csd=tmp_path / "csd.pth", lpips=lpips, arcface=network, inception=network
    )
    assert judges.features("clip", pictures) is None
    for judge in ("csd", "arcface"):
        features = judges.features(judge, pictures)
        assert features is not None
        torch.testing.assert_close(features.norm(dim=1), torch.ones(18))
        assert judges.features(judge, pictures) is features  # asked once
    distances = judges.distances(pictures.images, pictures.images.flip(-1))
    assert distances is not None
    assert distances.shape == (18,)
    assert (distances > 0).all()


def test_arcface_sees_the_face(tmp_path: Path, pictures: Pictures) -> None:
    network = write_onnx(tmp_path / "network.onnx")
    whole = open_judges(CPU, arcface=network)
    judges = open_judges(CPU, arcface=network, face=(0.25, 0.5, 0.5))
    face = Pictures(pictures.images[:, :, 16:32, 8:24], pictures.mask)
    seen, alone = judges.features("arcface", pictures), whole.features("arcface", face)
    assert seen is not None
    assert torch.equal(seen, alone)


def test_nothing_is_asked_of_none(pictures: Pictures) -> None:
    assert Judges().features("inception", pictures) is None
    assert Judges().distances(pictures.images, pictures.images) is None


def test_a_wrong_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(StylizerError, match="no such file"):
        open_judges(CPU, csd=tmp_path / "none.pth")
