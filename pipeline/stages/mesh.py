"""Mesh: the surface of identities as coloured .glb or .ply files."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

import eg3d_renderer as er
from eg3d_renderer.mesh import extract_mesh, write_mesh
from pipeline.console import progress


def export_meshes(
    source: str,
    seeds: Sequence[int],
    out: Path,
    device: torch.device,
    *,
    format: str,
    resolution: int,
    level: float,
    psi: float | None,
) -> Iterator[Path]:
    """Write OUT/seed0017.glb, ... of a generator's seeds; one that is there already is left.

    `resolution` points on a side of the box that the generator fills, `level` the density taken
    for the surface, `psi` the truncation (None: the generator's usual). Raises RendererError where
    there is no surface.
    """
    generator = er.load_generator(source, device)
    out.mkdir(parents=True, exist_ok=True)
    for seed in progress(seeds, "mesh", len(seeds)):
        path = out / f"seed{seed:04d}.{format}"
        if not path.exists():
            with torch.inference_mode():
                z = er.latents([seed], generator.z_dim).to(device)
                ws = generator.mapping(z, truncation_psi=psi or generator.truncation_psi)
                field = generator.density_field(generator.planes(ws), ws)
            box = generator.rendering_kwargs["box_warp"]
            write_mesh(extract_mesh(field, box, resolution, level, device=device), path)
        yield path
