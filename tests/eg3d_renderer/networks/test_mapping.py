import numpy as np
import torch

from eg3d_renderer.networks.mapping import Mapping, normalize_2nd_moment
from tests.eg3d_renderer import oracle

TRUTH = oracle.numbers("mapping_units")
EXACT = {"rtol": 0, "atol": 1e-5}


def normal(seed: int, width: int) -> torch.Tensor:
    return torch.from_numpy(np.random.RandomState(seed).standard_normal((2, width))).float()


def test_conditioned_mapping() -> None:
    mapping = Mapping(512, 25, 512, 14, num_layers=2)
    oracle.fill_module(mapping, "backbone.mapping.")
    z, c = normal(95, 512), normal(96, 25)
    torch.testing.assert_close(mapping(z, c)[:, :1], TRUTH["map_default_w"], **EXACT)
    truncated = mapping(z, c, 0.7, 14)
    torch.testing.assert_close(truncated[:, :1], TRUTH["map_default_w_t"], **EXACT)
    partly = mapping(z, c, 0.3, 3)
    torch.testing.assert_close(partly[:, 2:4], TRUTH["map_default_w_t3"], **EXACT)


def test_unconditioned_mapping_of_eight_layers() -> None:
    mapping = Mapping(64, 0, 32, None, num_layers=8)
    oracle.fill_module(mapping, "backbone.mapping.")
    torch.testing.assert_close(
        mapping(normal(95, 64), torch.empty(2, 0)), TRUTH["map_8_w"], **EXACT
    )


def test_psi_zero_is_the_mean() -> None:
    mapping = Mapping(8, 0, 4, 3, num_layers=2)
    mapping.w_avg.normal_()
    assert torch.equal(
        mapping(torch.randn(2, 8), torch.empty(2, 0), 0.0), mapping.w_avg.expand(2, 3, 4)
    )


def test_second_moment() -> None:
    x = normalize_2nd_moment(torch.randn(5, 16) * 7)
    torch.testing.assert_close(x.square().mean(1), torch.ones(5))
    units = oracle.numbers("ops_conv_layers")
    torch.testing.assert_close(normalize_2nd_moment(units["norm2_x"]), units["norm2_y"])
