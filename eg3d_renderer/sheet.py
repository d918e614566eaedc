"""The picture at the top of the README: `python -m eg3d_renderer.sheet OUT.webp`.

Rows one and two are identities around the circle; below, each row is one identity as itself and in
every style.
"""

import sys

import torch
from PIL import Image

import eg3d_renderer as er
from eg3d_renderer.demo.styles import STYLES

TURNED = (7, 2)  # seeds
STYLED = (10, 1, 3)
SIZE = 160


def views(style: str, seed: int, cam: torch.Tensor) -> torch.Tensor:
    """[V, 3, SIZE, SIZE] in [-1, 1]."""
    generator = er.load_generator(f"procedural:{style}")
    ws = generator.mapping(er.latents([seed], generator.z_dim))
    return generator.synthesis(ws, cam, SIZE)["image"]


def sheet() -> Image.Image:
    circle = er.cameras.orbit(len(STYLES), elevation=5)
    rows = [views("natural", seed, circle) for seed in TURNED]
    turned = er.cameras.orbit(16, elevation=5)
    for seed, camera in zip(STYLED, (1, 15, 2), strict=True):
        cam = turned[camera : camera + 1]
        rows.append(torch.cat([views(style, seed, cam) for style in STYLES]))
    picture = torch.cat([torch.cat(list(row), dim=-1) for row in rows], dim=-2)  # [3, h, w]
    levels = ((picture + 1) * 127.5).round().byte()
    return Image.fromarray(levels.permute(1, 2, 0).numpy())


if __name__ == "__main__":
    sheet().save(sys.argv[1], quality=90, method=6)
