"""Features of a point to its density and colour features."""

import torch
from torch import Tensor, nn

from eg3d_renderer.errors import RendererError
from eg3d_renderer.networks.layers import FullyConnected

FEATURES = 32  # colour features of a point; the first three are its colour where it has one


def sigmoid_with_margin(x: Tensor) -> Tensor:
    """A sigmoid from -0.001 to 1.001, so that the decoder reaches 0 and 1 (mip-NeRF's padding)."""
    return torch.sigmoid(x) * 1.002 - 0.001


ACTIVATIONS = {
    "sigmoid": sigmoid_with_margin,
    "lrelu": lambda x: torch.nn.functional.leaky_relu(x, 0.2) * 2**0.5,
    "none": lambda x: x,
}


class Decoder(nn.Module):
    """Two layers of 64 units: features [P, 32] -> sigma [P], colour features [P, 32]."""

    def __init__(self, activation: str = "sigmoid", lr_multiplier: float = 1.0) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise RendererError(
                f"rendering_kwargs.decoder_activation: {activation!r} is not one of "
                f"{', '.join(ACTIVATIONS)}"
            )
        self.activation = activation
        self.net = nn.Sequential(
            FullyConnected(FEATURES, 64, lr_multiplier=lr_multiplier),
            nn.Softplus(),
            FullyConnected(64, 1 + FEATURES, lr_multiplier=lr_multiplier),
        )

    def layers(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The weights and biases as they act: [64, 32], [64], [33, 64], [33]."""
        first, second = self.net[0], self.net[2]
        assert isinstance(first, FullyConnected)
        assert isinstance(second, FullyConnected)
        return *first.scaled(), *second.scaled()

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        x = self.net(features)
        return x[..., 0], ACTIVATIONS[self.activation](x[..., 1:])
