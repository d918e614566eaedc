"""Meshes of a density: marching cubes on a regular lattice, vertex colours, .glb and .ply files.

The world is glTF's: right-handed, y up, the face looks to +z. Meshes are written as they are.
"""

import dataclasses
import json
import math
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eg3d_renderer.errors import RendererError

# world points [P, 3] -> density [P], sRGB colours [P, 3] in [-1, 1]
Field = Callable[[Tensor], tuple[Tensor, Tensor]]

LEVEL = 10.0  # the density that is taken for the surface
LEAST = 1e-3  # of a lattice edge: how near a vertex comes to the edge's ends
RESOLUTIONS = (16, 1024)


@dataclasses.dataclass(frozen=True)
class Mesh:
    """Triangles, counter-clockwise seen from outside; every edge belongs to exactly two."""

    vertices: NDArray[np.float32]  # [V, 3], world units
    faces: NDArray[np.int32]  # [F, 3]
    colours: NDArray[np.uint8]  # [V, 3], sRGB


def extract_mesh(
    field: Field,
    box: float,
    resolution: int = 256,
    level: float = LEVEL,
    *,
    largest: bool = True,
    chunk: int = 1 << 18,
    device: torch.device | str = "cpu",
) -> Mesh:
    """The closed surface on which the density of `field` is `level`; it is denser inside.

    The density is sampled on `resolution`^3 points, the outermost on the faces of
    [-box/2, box/2]^3, `chunk` of them a call, on `device`: in memory are the float32 lattice and
    one chunk. What reaches the faces of the box is closed there, a thousandth of a voxel outside.
    `largest` keeps the connected surface with most faces alone: neither floaters nor cavities.
    Marching cubes is Lewiner et al., "Efficient implementation of marching cubes' cases with
    topological guarantees", Journal of Graphics Tools 2003, as in scikit-image.

    Raises RendererError for a box, resolution or level that gives no surface, and where the density
    or a colour is not finite.
    """
    if not 0 < box < math.inf:
        raise RendererError(f"extract_mesh: box is {box}; give its edge in world units")
    lowest, highest = RESOLUTIONS
    if not lowest <= resolution <= highest:
        raise RendererError(
            f"extract_mesh: resolution is {resolution}; keep it from {lowest} to {highest}"
        )
    try:
        from skimage.measure import marching_cubes
    except ImportError:
        raise RendererError(
            "extract_mesh: scikit-image is not installed; pip install 'diffstyle360[mesh]'"
        ) from None

    lattice = sample_lattice(field, box, resolution, level, chunk, device)
    clear_level(lattice[1:-1, 1:-1, 1:-1])
    close_border(lattice)
    places, faces, _, _ = marching_cubes(
        lattice, 0.0, gradient_direction="ascent", allow_degenerate=True
    )  # places [V, 3] in steps of the lattice
    if largest:
        places, faces = largest_component(places, faces)
    step = box / (resolution - 1)
    vertices = ((places.astype(np.float64) - 1) * step - box / 2).astype(np.float32)
    parts = torch.from_numpy(vertices).to(device).split(chunk)
    colours = np.concatenate([surface_colours(field, part) for part in parts])
    return Mesh(vertices, np.ascontiguousarray(faces, np.int32), colours)


def sample_lattice(
    field: Field,
    box: float,
    resolution: int,
    level: float,
    chunk: int,
    device: torch.device | str,
) -> NDArray[np.float32]:
    """Density less `level`, [N + 2, N + 2, N + 2], x first: N^3 samples and a border around them.

    Raises RendererError unless some samples lie above the level and some do not.
    """
    n = resolution
    lattice = np.full([n + 2] * 3, -1, np.float32)
    axis = torch.linspace(-box / 2, box / 2, n, dtype=torch.float64).float().to(device)
    low, high = math.inf, -math.inf
    for start in range(0, n**3, chunk):
        index = np.unravel_index(np.arange(start, min(start + chunk, n**3)), [n] * 3)
        points = torch.stack([axis[torch.from_numpy(i).to(device)] for i in index], dim=1)
        with torch.inference_mode():
            sigma = field(points)[0].float().cpu().numpy()
        if not np.isfinite(sigma).all():
            first = int(np.flatnonzero(~np.isfinite(sigma))[0])
            raise RendererError(
                f"extract_mesh: the density is {sigma[first]} at {name_place(points[first])}"
            )
        above = sigma - np.float32(level)
        low, high = min(low, float(above.min())), max(high, float(above.max()))
        lattice[1:-1, 1:-1, 1:-1][index] = above
    if not low <= 0 < high:
        raise RendererError(
            f"extract_mesh: no surface at level {level:g}; "
            f"densities reach from {low + level:.4g} to {high + level:.4g}"
        )
    return lattice


def clear_level(lattice: NDArray[np.float32]) -> None:
    """Move samples [X, Y, Z] away from zero, in place, where a crossing would fall onto them.

    Marching cubes puts a vertex on each lattice edge whose ends lie on either side of zero. Where
    an end is zero itself, or nearly, several vertices meet in it and span faces without area; here
    each crossing is kept LEAST of its edge away from the ends.
    """
    near = LEAST * (float(lattice.max()) - float(lattice.min()))
    last = np.array(lattice.shape) - 1
    for i, plane in enumerate(lattice):
        places = np.argwhere(np.abs(plane) < near)  # [M, 2]
        places = np.insert(places, 0, i, axis=1)  # [M, 3]
        value = lattice[tuple(places.T)]
        least = np.zeros_like(value)
        for step in (*np.eye(3, dtype=int), *-np.eye(3, dtype=int)):
            other = lattice[tuple((places + step).clip(0, last).T)]
            across = (other > 0) != (value > 0)
            least = np.maximum(least, LEAST * np.abs(other - value) * across)
        moved = np.where(value > 0, np.maximum(value, least), np.minimum(value, -least))
        lattice[tuple(places.T)] = moved


def close_border(lattice: NDArray[np.float32]) -> None:
    """Fill the border of [N + 2, N + 2, N + 2], in place: outside, LEAST beyond what it closes."""
    for axis in range(3):
        for border, inner in ((0, 1), (-1, -2)):
            planes = np.moveaxis(lattice, axis, 0)
            found = planes[inner, 1:-1, 1:-1]
            planes[border, 1:-1, 1:-1] = np.where(found > 0, found * (-1 / LEAST), found)


def largest_component(
    places: NDArray[np.float32], faces: NDArray[np.int32]
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Of a mesh's connected parts the one with most faces; vertices keep their order."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    ends = faces[:, [0, 1, 1, 2]].reshape(-1, 2)
    joined = coo_matrix((np.ones(len(ends), bool), tuple(ends.T)), shape=[len(places)] * 2)
    _, part = connected_components(joined, directed=False)
    kept = part == np.bincount(part[faces[:, 0]]).argmax()
    renamed = np.cumsum(kept, dtype=np.int32) - 1
    return places[kept], renamed[faces[kept[faces[:, 0]]]]


def surface_colours(field: Field, points: Tensor) -> NDArray[np.uint8]:
    """Colours of the field at points [P, 3] as bytes [P, 3]."""
    with torch.inference_mode():
        rgb = field(points)[1].float()
    bad = (~torch.isfinite(rgb)).any(dim=1).nonzero().view(-1).tolist()
    if bad:
        raise RendererError(
            f"extract_mesh: the colour is not finite at {name_place(points[bad[0]])}"
        )
    return ((rgb + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu().numpy()


def name_place(point: Tensor) -> str:
    return "({:.4g}, {:.4g}, {:.4g})".format(*point.tolist())


def write_mesh(mesh: Mesh, path: Path | str) -> None:
    """Write `path`: binary glTF for .glb, binary PLY for .ply, with vertex colours.

    The axes are the world's in both. PLY holds the colours' sRGB bytes; glTF asks for linear
    colours, so .glb holds those, as float32, and an unlit material: the light is in them already.
    The file appears whole, under a temporary name until then. Raises RendererError for another
    suffix and where writing fails.
    """
    path = Path(path)
    pack = {".glb": pack_glb, ".ply": pack_ply}.get(path.suffix.lower())
    if pack is None:
        raise RendererError(f"{path}: cannot write {path.suffix or 'no suffix'}; use .glb or .ply")
    partial = path.with_name(f".{path.name}.partial")
    try:
        try:
            with partial.open("wb") as file:
                file.writelines(pack(mesh))
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise RendererError(f"{path}: cannot write ({error.strerror or error})") from None


def pack_ply(mesh: Mesh) -> Iterable[bytes]:
    """A binary little-endian PLY file in pieces."""
    coordinates = [(name, "<f4") for name in "xyz"]
    vertices = np.empty(len(mesh.vertices), [*coordinates, ("colour", "u1", 3)])
    for i, name in enumerate("xyz"):
        vertices[name] = mesh.vertices[:, i]
    vertices["colour"] = mesh.colours
    faces = np.empty(len(mesh.faces), [("count", "u1"), ("vertices", "<i4", 3)])
    faces["count"] = 3
    faces["vertices"] = mesh.faces
    header = [
        "ply",
        "format binary_little_endian 1.0",
        f"element vertex {len(vertices)}",
        *(f"property float {name}" for name in "xyz"),
        *(f"property uchar {name}" for name in ("red", "green", "blue")),
        f"element face {len(faces)}",
        "property list uchar int vertex_indices",
        "end_header\n",
    ]
    return ["\n".join(header).encode(), vertices.tobytes(), faces.tobytes()]


def pack_glb(mesh: Mesh) -> Iterable[bytes]:
    """A binary glTF 2.0 file in pieces: a header, a chunk of JSON, a chunk of arrays."""
    arrays = (
        mesh.vertices.astype("<f4"),
        linear(mesh.colours).astype("<f4"),
        mesh.faces.astype("<u4").reshape(-1),
    )
    starts = np.cumsum([0, *(a.nbytes for a in arrays)]).tolist()
    float32, uint32 = 5126, 5125  # WebGL's names for types and uses
    vertex_data, face_data = 34962, 34963
    types = ((float32, "VEC3"), (float32, "VEC3"), (uint32, "SCALAR"))
    accessors: list[dict[str, Any]] = [
        {"bufferView": i, "componentType": component, "count": len(a), "type": shape}
        for i, (a, (component, shape)) in enumerate(zip(arrays, types, strict=True))
    ]
    accessors[0] |= {"min": arrays[0].min(0).tolist(), "max": arrays[0].max(0).tolist()}
    views = [
        {"buffer": 0, "byteOffset": start, "byteLength": a.nbytes, "target": use}
        for a, start, use in zip(
            arrays, starts[:-1], (vertex_data, vertex_data, face_data), strict=True
        )
    ]
    attributes = {"POSITION": 0, "COLOR_0": 1}
    described = {
        "asset": {"version": "2.0", "generator": "diffstyle360"},
        "extensionsUsed": ["KHR_materials_unlit"],
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": attributes, "indices": 2, "material": 0}]}],
        "materials": [
            {
                "pbrMetallicRoughness": {"metallicFactor": 0, "roughnessFactor": 1},
                "extensions": {"KHR_materials_unlit": {}},
            }
        ],
        "accessors": accessors,
        "bufferViews": views,
        "buffers": [{"byteLength": starts[-1]}],
    }
    text = json.dumps(described, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)

    def words(*values: int) -> bytes:
        return np.array(values, "<u4").tobytes()

    total = 12 + 8 + len(text) + 8 + starts[-1]
    json_chunk, binary_chunk = 0x4E4F534A, 0x004E4942
    return [
        b"glTF" + words(2, total),
        words(len(text), json_chunk),
        text,
        words(starts[-1], binary_chunk),
        *(a.tobytes() for a in arrays),
    ]


def linear(colours: NDArray[np.uint8]) -> NDArray[np.float32]:
    """sRGB bytes -> linear light in [0, 1] (IEC 61966-2-1)."""
    v = np.arange(256) / 255
    table = np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)
    return table[colours].astype(np.float32)
