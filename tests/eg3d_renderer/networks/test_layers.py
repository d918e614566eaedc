import torch

from eg3d_renderer.networks.layers import FullyConnected, PointwiseConv, SynthesisLayer, ToRGB
from tests.eg3d_renderer import oracle

TRUTH = oracle.numbers("ops_conv_layers")
EXACT = {"rtol": 0, "atol": 1e-5}


def filled(module: torch.nn.Module, name: str) -> torch.nn.Module:
    oracle.fill_module(module, f"unit.{name}.")
    return module


def test_fully_connected() -> None:
    w = TRUTH["w"]
    linear = filled(FullyConnected(24, 10, lr_multiplier=0.01), "fc_linear")
    torch.testing.assert_close(linear(w), TRUTH["fc_linear_y"], **EXACT)
    lrelu = filled(FullyConnected(24, 10, "lrelu", lr_multiplier=0.5), "fc_lrelu")
    torch.testing.assert_close(lrelu(w), TRUTH["fc_lrelu_y"], **EXACT)


def test_synthesis_layers() -> None:
    for up, clamp in ((1, None), (2, 2.0)):
        name = f"layer_up{up}"
        layer = filled(SynthesisLayer(4, 6, 24, 8 * up, up, clamp), name)
        weights = layer.modulate(TRUTH["w"])
        for noise in ("const", "none"):
            y = layer(TRUTH["xs"], weights, noise)
            torch.testing.assert_close(y, TRUTH[f"{name}_{noise}_y"], rtol=0, atol=3e-5)


def test_to_rgb() -> None:
    layer = filled(ToRGB(4, 3, 24), "torgb")
    y = layer(TRUTH["xs"], layer.modulate(TRUTH["w"]))
    torch.testing.assert_close(y, TRUTH["torgb_y"], **EXACT)


def test_pointwise_convolution() -> None:
    layer = filled(PointwiseConv(4, 6), "conv1x1")
    torch.testing.assert_close(layer(TRUTH["xs"]), TRUTH["conv1x1_y"], **EXACT)
