"""Changes to a style image that leave its style as it is."""

import math

import numpy as np
import torch
import torch.nn.functional as F

TURN = 10.0  # degrees, either way
SMALLEST = 0.85  # of the image's side that a crop keeps


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
