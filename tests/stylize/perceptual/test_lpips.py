import pytest
import torch
import torch.nn.functional as F

from stylize.config import StylizerError
from stylize.perceptual import load_lpips
from stylize.perceptual.lpips import SCALE, SHIFT, STAGES
from tests.stylize.perceptual.networks import VGG_INDEXES, lpips_states, write_lpips


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write_lpips(tmp_path_factory.mktemp("lpips"))


def restated(first, second):
    network, heads = lpips_states()
    total = 0.0
    x, y = ((i - torch.tensor(SHIFT).view(3, 1, 1)) / torch.tensor(SCALE).view(3, 1, 1)
            for i in (first, second))  # fmt: skip
    for number, indexes in enumerate(VGG_INDEXES):
        if number:
            x, y = F.max_pool2d(x, 2), F.max_pool2d(y, 2)
        for index in indexes:
            weights = network[f"features.{index}.weight"], network[f"features.{index}.bias"]
            x, y = (F.relu(F.conv2d(i, *weights, padding=1)) for i in (x, y))
        a, b = (i / (i.square().sum(1, keepdim=True).sqrt() + 1e-10) for i in (x, y))
        head = heads[f"lin{number}.model.1.weight"][0]
        total = total + (head * (a - b).square()).sum(1).mean((1, 2))
    return total


def test_lpips_is_its_formula(files, images):
    other = images.flip(-1)
    got = load_lpips(*files)(images, other)
    torch.testing.assert_close(got, restated(images, other))
    assert load_lpips(*files)(images, images).tolist() == [0, 0, 0]


def test_the_published_size_is_vgg16():
    assert STAGES == ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))


def test_other_files_are_refused(files, tmp_path):
    vgg, heads = files
    with pytest.raises(StylizerError, match="no tensor features"):
        load_lpips(heads, heads)
    with pytest.raises(StylizerError, match="no tensor lin"):
        load_lpips(vgg, vgg)
    network = {n: t for n, t in lpips_states()[0].items() if not n.startswith("features.28")}
    torch.save(network, tmp_path / "cut.pth")
    with pytest.raises(StylizerError, match=r"missing: 28\.weight"):
        load_lpips(tmp_path / "cut.pth", heads)
