"""Clips by number, the same however they are batched."""

from collections.abc import Callable, Sequence

import pytest
import torch

from stylize.config import StylizerConfig
from stylize.model import DiffStyle360
from stylize.training import Triplets

VIEWS, SIZE = 3, 16
SMALL = StylizerConfig(
    image_size=SIZE,
    latent_factor=2,
    channels=(8,),
    attention=(True,),
    motion=(1,),
    layers=1,
    heads=2,
    groups=4,
    cross_attention_dim=8,
    hint_channels=(4, 8),
    window=VIEWS,
)


def _make_small(config: StylizerConfig = SMALL) -> DiffStyle360:
    """A model of one level: for tests of the loop, where the network does not matter."""
    return DiffStyle360(config)


def _make_clips(numbers: Sequence[int]) -> Triplets:
    """Random pictures; a flat depth seen by one camera, so that neighbours lie on each other."""

    def images(*shape: int) -> torch.Tensor:
        clips = []
        for number in numbers:
            generator = torch.Generator().manual_seed(1000 * number + len(shape))
            clips.append(torch.rand(*shape, 3, SIZE, SIZE, generator=generator) * 2 - 1)
        return torch.stack(clips)

    front, hint = images(), images(VIEWS)
    camera = torch.tensor([*torch.eye(4).flatten(), 1, 0, 0.5, 0, 1, 0.5, 0, 0, 1])
    return Triplets(
        front=front,
        back=-front,
        style=front.flip(-1),
        hint=hint,
        target=hint.flip(-2),
        keys=[f"train-{number:08d}" for number in numbers],
        depth=torch.full((len(numbers), VIEWS, 1, SIZE, SIZE), 2.0),
        cameras=camera.expand(len(numbers), VIEWS, 25),
        background=3.0,
    )


@pytest.fixture(scope="session")
def make_clips() -> Callable[[Sequence[int]], Triplets]:
    return _make_clips


@pytest.fixture(scope="session")
def make_small() -> Callable[..., DiffStyle360]:
    return _make_small


@pytest.fixture(scope="session")
def small() -> StylizerConfig:
    return SMALL
