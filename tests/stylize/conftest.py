from collections.abc import Callable

import pytest
import torch

from stylize.config import StylizerConfig
from stylize.model import DiffStyle360
from stylize.training import Triplets

TINY = StylizerConfig(
    image_size=16,
    latent_factor=2,
    channels=(8, 16),
    attention=(True, True),
    motion=(1, 1),
    layers=1,
    heads=2,
    groups=4,
    cross_attention_dim=8,
    hint_channels=(4, 8),
    window=4,
)


def _make_model(config: StylizerConfig = TINY) -> DiffStyle360:
    """A model whose zero-initialised parts are zero no longer: every path has an effect."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = DiffStyle360(config).eval()
        for parameter in model.parameters():
            if not parameter.any():
                parameter.data.normal_(std=0.1)
    return model


def _make_triplets(index: int, clips: int = 2, views: int = 3) -> Triplets:
    generator = torch.Generator().manual_seed(index)

    def images(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, 3, 16, 16, generator=generator) * 2 - 1

    return Triplets(
        images(clips), images(clips), images(clips), images(clips, views), images(clips, views),
        [f"train-{index:08d}-{i}" for i in range(clips)],
    )  # fmt: skip


@pytest.fixture(scope="session")
def tiny() -> StylizerConfig:
    return TINY


@pytest.fixture(scope="session")
def make_model() -> Callable[..., DiffStyle360]:
    return _make_model


@pytest.fixture(scope="session")
def make_triplets() -> Callable[..., Triplets]:
    return _make_triplets


@pytest.fixture(scope="session")
def model() -> DiffStyle360:
    """Shared: for reading only."""
    return _make_model()


@pytest.fixture
def triplets() -> Triplets:
    return _make_triplets(0)
