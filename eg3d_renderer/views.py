"""Views of an identity: made once what they share, then each is marched and enlarged."""

import warnings
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from eg3d_renderer import cameras
from eg3d_renderer.marching.depths import Draws, draw_depths
from eg3d_renderer.networks.decoder import FEATURES
from eg3d_renderer.ops.march import Scene, march
from eg3d_renderer.ops.march.reference import Marched
from eg3d_renderer.ops.styled_conv import Prepared

if TYPE_CHECKING:
    from eg3d_renderer.triplane import TriPlaneGenerator

CPU_RAYS = 128  # marched together by the reference; their features fit the cache


class Identity(NamedTuple):
    """One identity, ready to be seen from anywhere."""

    scene: Scene
    ws: Tensor  # [1, num_ws, w_dim]
    weights: list[list[Tensor | Prepared]]  # of the super-resolution
    background: Tensor | None  # [1, 32, h, w]


def render_views(
    generator: "TriPlaneGenerator",
    identity: Identity,
    cam: Tensor,
    resolution: int,
    jitter: torch.Generator | Draws | None,
    memory: int | None,
) -> dict[str, Tensor]:
    """An identity from the cameras [V, 25], a few at a time; see `TriPlaneGenerator.render`.

    Where a GPU runs out of memory, half of it is tried, and a warning says so.
    """
    made: dict[str, Tensor] = {}
    done = 0
    if memory is None:
        memory = spare_memory(identity.ws.device)
    while done < len(cam):
        views_at_once = together(identity.ws, 1, memory // generator.superresolution.bytes_per_view)
        rays = together(identity.ws, CPU_RAYS, memory // bytes_per_ray(generator))
        labels = cam[done : done + views_at_once]
        try:
            views = _render_some(generator, identity, labels, resolution, jitter, rays)
        except torch.OutOfMemoryError:
            if views_at_once == 1 and rays <= CPU_RAYS:
                raise
            torch.cuda.empty_cache()
            memory //= 2
            warnings.warn(
                f"out of memory on {cam.device}: rendering within {memory >> 20} MiB", stacklevel=2
            )
            continue
        for name, tensor in views.items():
            if name not in made:
                made[name] = tensor.new_empty(len(cam), *tensor.shape[1:])
            made[name][done : done + len(labels)] = tensor
        done += len(labels)
    return made


def _render_some(
    generator: "TriPlaneGenerator",
    identity: Identity,
    labels: Tensor,
    resolution: int,
    jitter: torch.Generator | Draws | None,
    rays: int,
) -> dict[str, Tensor]:
    marched = [
        march_camera(generator, identity, label, resolution, jitter, rays)
        for label in labels.split(1)
    ]
    features, depth, opacity = (
        torch.stack(t).view(len(labels), resolution, resolution, -1).movedim(-1, 1)
        for t in zip(*marched, strict=True)
    )  # [B, 32, h, w], [B, 1, h, w], [B, 1, h, w]
    if identity.background is not None:
        features = features + (1 - opacity) * identity.background
    raw = generator.raw_image(features, identity.ws)
    return {
        "image": generator.superresolution(
            raw, features, identity.weights, generator.sr_noise_mode
        ),
        "image_raw": raw,
        "image_depth": depth,
        "image_mask": generator.mask(opacity),
    }


def march_camera(
    generator: "TriPlaneGenerator",
    identity: Identity,
    label: Tensor,
    resolution: int,
    jitter: torch.Generator | Draws | None = None,
    rays: int = CPU_RAYS,
) -> Marched:
    """What the pixels of a camera [1, 25] see, row by row; the reference marches `rays` at once."""
    origins, directions = (t[0] for t in cameras.rays(label, resolution))
    s = generator.settings
    draws = draw_depths(jitter, len(origins), s.samples, s.fine_samples, origins.device)
    return march(identity.scene, origins, directions, draws, rays)


def spare_memory(device: torch.device) -> int:
    """Half of what is free on a GPU; on a CPU, where batches do not depend on it, 1 GiB."""
    if device.type != "cuda":
        return 1 << 30
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return (torch.cuda.mem_get_info(device)[0] + kept) // 2


def bytes_per_ray(generator: "TriPlaneGenerator") -> int:
    """What the reference holds while it marches one."""
    samples = generator.settings.samples + generator.settings.fine_samples
    return 4 * samples * (generator.backbone_channels + 6 * FEATURES)


def together(tensor: Tensor, on_cpu: int, elsewhere: int) -> int:
    """How many rows to compute at once.

    A CPU gains nothing by more than a few, and its sums are grouped, and so rounded, by how many
    there are: there the number is fixed, so that a row's bits depend on nothing but itself.
    """
    return on_cpu if tensor.is_cpu else max(1, elsewhere)
