"""Changes to a clip's pictures: a style image otherwise placed, a style in other colours."""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

TURN = 10.0  # degrees, either way
SMALLEST = 0.85  # of the image's side that a crop keeps
SATURATION = 0.5, 1.4  # how strong colours become, times what they were
GAMMA = 0.75, 1.35  # brightness: the exponent of values in [0, 1]


def augment(images: torch.Tensor, draw: np.random.Generator) -> torch.Tensor:
    """Images [n, 3, H, W] mirrored or not, turned a little and cropped a little; the same size.

    What comes in over the border is the nearest pixel. The same draws make the same image.
    """
    mirror = -1.0 if draw.random() < 0.5 else 1.0
    angle = math.radians(draw.uniform(-TURN, TURN))
    kept = draw.uniform(SMALLEST, 1)
    shift = draw.uniform(-1, 1, 2) * (1 - kept)  # in half sides: the crop stays inside
    cos, sin = kept * math.cos(angle), kept * math.sin(angle)
    matrix = torch.tensor(
        [[mirror * cos, -sin, shift[0]], [mirror * sin, cos, shift[1]]], dtype=torch.float32
    )
    theta = matrix.expand(len(images), 2, 3)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


@dataclass(frozen=True)
class Palette:
    """Other colours for all pictures in a style: black, white and greys stay grey."""

    turn: float  # radians, of the hues
    saturation: float
    gamma: float

    def recolour(self, images: torch.Tensor) -> torch.Tensor:
        """Images [..., 3, H, W] in [-1, 1] in these colours."""
        mixed = torch.einsum("ij,...jhw->...ihw", self._mixing().to(images), images)
        values = (mixed.clamp(-1, 1) + 1) / 2
        return 2 * values**self.gamma - 1

    def _mixing(self) -> torch.Tensor:
        """[3, 3]: a rotation about the grey axis, which is kept as it is, times the saturation."""
        grey = torch.full((3, 3), 1 / 3)
        across = torch.eye(3) - grey
        cross = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
        turned = math.cos(self.turn) * across + math.sin(self.turn) * cross
        return grey + self.saturation * turned


def draw_palette(draw: np.random.Generator) -> Palette:
    """Any hues, within bounds for saturation and brightness."""
    return Palette(
        turn=draw.uniform(-math.pi, math.pi),
        saturation=draw.uniform(*SATURATION),
        gamma=draw.uniform(*GAMMA),
    )
