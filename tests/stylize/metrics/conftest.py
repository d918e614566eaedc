import pytest
import torch


@pytest.fixture
def views() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(2, 3, 8, 8, generator=generator) * 1.6 - 0.8
    return torch.nn.functional.interpolate(coarse, size=32, mode="bilinear")


@pytest.fixture
def mask() -> torch.Tensor:
    mask = torch.zeros(2, 1, 32, 32)
    mask[..., 8:24, 8:24] = 1
    return mask
