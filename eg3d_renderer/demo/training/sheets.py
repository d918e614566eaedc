"""Heads as a generator and the truth show them: views, places in them, and sheets of pictures."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from eg3d_renderer import cameras
from eg3d_renderer.demo.generator import FRAME, ProceduralHeads
from eg3d_renderer.generators import Generator, latents

ELEVATION = 5.0  # degrees
BOX = (0.0, 0.05, -0.1), 1.05, 1.25  # head units: a centre, half the width, half the height
FACE = (0.0, -0.25), (0.50, 0.65)  # head units: centre and radii, in x and y
FACE_Z = 0.7  # head units; about where a face's surface is
NECK = -0.9  # head units; the back of the head ends there
MARGIN = 2  # pixels along the silhouette that tell nothing of a ghost


class Views(NamedTuple):
    """A head from V cameras."""

    image: Tensor  # [V, 3, R, R] in [0, 1]
    depth: Tensor  # [V, R, R], along the unit ray
    mask: Tensor  # [V, R, R] in [0, 1]


def view(generator: Generator, z: Tensor, cam: Tensor) -> Views:
    """The head of z [1, z_dim] from cameras [V, 25], untruncated, in the generator's own size."""
    with torch.no_grad():
        seen = generator.synthesis(generator.mapping(z), cam)
    image = seen["image"].add(1).div(2).clamp(0, 1)
    return Views(image, seen["image_depth"][:, 0], seen["image_mask"][:, 0])


def head_places(cam: Tensor, depth: Tensor) -> Tensor:
    """Where pixels see a surface, in head coordinates: depths [V, R, R] -> [V, R, R, 3]."""
    origins, directions = (t.view(*depth.shape, 3) for t in cameras.rays(cam, depth.shape[-1]))
    world = origins + depth[..., None] * directions
    return (world - torch.tensor(FRAME.centre)) / FRAME.scale


def project(cam: Tensor, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Points [N, 3] in head coordinates seen from cameras [V, 25]: where in the image, u and v
    [V, N] from 0 to 1, and how large a head unit is there, in image widths [V, N]."""
    cam2world, k = cameras.split(cam)
    world = points * FRAME.scale + torch.tensor(FRAME.centre)
    x, y, z = ((world - cam2world[:, None, :3, 3]) @ cam2world[:, :3, :3]).unbind(-1)
    focal, (cx, cy) = k[:, 0, 0, None], k[:, :2, 2].T[..., None]
    return focal * x / z + cx, focal * y / z + cy, focal * FRAME.scale / z


def facing_back(cam: Tensor) -> Tensor:
    """Which of cameras [V, 25] are within 45 degrees of yaw of the back of the head, [V]."""
    x, _, z = cameras.split(cam)[0][:, :3, 3].unbind(1)
    return -z >= math.sqrt(0.5) * torch.hypot(x, z) * (1 - 1e-6)


def head_box(cam: Tensor, resolution: int) -> Tensor:
    """Whether a pixel is in a box around the head, [V, R, R].

    The box is BOX, upright in the image around its projected centre, as large as it is there: from
    the collar to above the crown, 81 x 96 of 128 x 128 pixels of the usual cameras. A ponytail
    may end outside.
    """
    centre, half_width, half_height = BOX
    u, v, size = project(cam, torch.tensor([centre]))
    pixels = cameras.pixel_centres(resolution)
    across = (pixels - u).abs() < half_width * size  # [V, R]
    down = (pixels - v).abs() < half_height * size
    return down[:, :, None] & across[:, None, :]


def back_of_head(mask: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels of back views, whose true mask is [V, R, R] and which see `places` [V, R, R, 3]: those
    where a face would show through, and the rest of the back of the head, each [V, R, R].

    The face's place is FACE seen from behind, whatever the z; the rest lies behind the ears and
    above the neck. Pixels near the silhouette belong to neither.
    """
    (cx, cy), (rx, ry) = FACE
    edge = F.max_pool2d((mask < 1).float()[:, None], 2 * MARGIN + 1, 1, MARGIN)[:, 0]
    x, y, z = places.unbind(-1)
    head = (edge == 0) & (z < 0) & (y > NECK)
    face = ((x - cx) / rx).square() + ((y - cy) / ry).square() < 1
    return head & face, head & ~face


def sheet(
    generator: Generator,
    truth: ProceduralHeads,
    seeds: Sequence[int],
    path: Path,
    columns: int = 8,
) -> None:
    """A PNG of one style: two rows a head, the truth above, from `columns` cameras around it."""
    cam = cameras.orbit(columns, elevation=ELEVATION)
    rows = []
    for z in latents(list(seeds), truth.z_dim).split(1):
        rows += [view(truth, z, cam).image, view(generator, z, cam).image]
    save(rows, path)


def sheet_of_styles(
    styles: Mapping[str, tuple[Generator, ProceduralHeads]], seeds: Sequence[int], path: Path
) -> None:
    """A PNG of all: a column a style, the truth above; heads are seen turned to the left, then from
    behind."""
    cam = cameras.orbit(8, elevation=ELEVATION)[[1, 4]]
    rows = []
    for z in latents(list(seeds), 48).split(1):
        pairs = [[view(g, z, cam).image for g in pair] for pair in styles.values()]
        for i in range(len(cam)):
            rows += [torch.stack([pair[which][i] for pair in pairs]) for which in (1, 0)]
    save(rows, path)


def save(rows: list[Tensor], path: Path) -> None:
    """Rows of images, each [V, 3, R, R] in [0, 1], as one PNG."""
    picture = torch.cat([torch.cat(list(row), dim=-1) for row in rows], dim=-2)  # [3, h, w]
    levels = (picture * 255).round().byte()
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(levels.permute(1, 2, 0).numpy()).save(path)
