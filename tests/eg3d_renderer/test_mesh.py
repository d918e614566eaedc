import json
import math
import struct
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from torch import Tensor

from eg3d_renderer import RendererError
from eg3d_renderer.mesh import LEVEL, Field, Mesh, extract_mesh, linear, write_mesh

CENTRE, RADII = torch.tensor([0.07, -0.05, 0.11]), torch.tensor([0.31, 0.22, 0.17])


def field_of(density: Callable[[Tensor], Tensor]) -> Field:
    """A field whose colour is its place: 0.5 in the world is full red, green or blue."""

    def field(points: Tensor) -> tuple[Tensor, Tensor]:
        return density(points), 2 * points

    return field


def ball(points: Tensor, centre: tuple[float, float, float], radius: float) -> Tensor:
    return LEVEL + 200 * (radius - (points - torch.tensor(centre)).norm(dim=1))


def ellipsoid(points: Tensor) -> Tensor:
    return LEVEL + 40 * (1 - ((points - CENTRE) / RADII).norm(dim=1))


def two_balls(points: Tensor) -> Tensor:
    return torch.maximum(ball(points, (-0.2, 0.0, 0.0), 0.2), ball(points, (0.3, 0.1, 0.0), 0.1))


def hollow_ball(points: Tensor) -> Tensor:
    return torch.minimum(ball(points, (0, 0, 0), 0.4), 20 - ball(points, (0, 0, 0), 0.2))


def column(points: Tensor) -> Tensor:
    """Leaves the box above and below, and on one side."""
    return LEVEL + 200 * (0.2 - (points[:, [0, 2]] - torch.tensor([0.4, 0.0])).norm(dim=1))


def steps(points: Tensor) -> Tensor:
    """An octahedron in whole numbers, many of them the level itself, on a lattice of 17."""
    return LEVEL + 5 - (points * 16).round().abs().sum(dim=1)


def waves(points: Tensor) -> Tensor:
    x, y, z = (points * 23).unbind(1)
    return LEVEL + 3 * (x.sin() * y.cos() + y.sin() * z.cos() + z.sin() * x.cos())


def assert_closed(mesh: Mesh) -> None:
    """By an edge count of our own and by trimesh."""
    edges = Counter((int(face[i]), int(face[i - 1])) for face in mesh.faces for i in range(3))
    assert set(edges.values()) == {1}
    assert all((b, a) in edges for a, b in edges)
    assert set(np.unique(mesh.faces)) == set(range(len(mesh.vertices)))
    seen = as_trimesh(mesh)
    assert seen.is_watertight
    assert seen.is_winding_consistent
    assert seen.volume > 0
    assert seen.area_faces.min() > 0


def as_trimesh(mesh: Mesh) -> trimesh.Trimesh:
    return trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)


@pytest.mark.parametrize("density", [ellipsoid, two_balls, hollow_ball, column, steps, waves])
@pytest.mark.parametrize("largest", [True, False])
def test_mesh_is_closed(density: Callable[[Tensor], Tensor], largest: bool) -> None:
    assert_closed(extract_mesh(field_of(density), 1.0, 17, largest=largest))


@settings(max_examples=30, deadline=None)
@given(arrays(np.int8, (16, 16, 16), elements=st.integers(-2, 2)), st.integers(-2, 1))
def test_mesh_of_any_lattice_is_closed(lattice: NDArray[np.int8], level: int) -> None:
    """Whole numbers on the level everywhere: the worst case for marching cubes."""
    lattice[0, 0, :2] = (-2, 2)

    def density(points: Tensor) -> Tensor:
        return torch.from_numpy(lattice)[tuple((points * 15 + 7.5).round().int().T)]

    assert_closed(extract_mesh(field_of(density), 1.0, 16, level, largest=False))


def test_vertices_lie_on_the_surface_and_faces_look_outwards() -> None:
    resolution = 49
    mesh = extract_mesh(field_of(ellipsoid), 1.0, resolution)
    voxel = 1 / (resolution - 1)
    offset = (mesh.vertices - CENTRE.numpy()) / RADII.numpy()
    height = (np.linalg.norm(offset, axis=1) - 1) / np.linalg.norm(offset / RADII.numpy(), axis=1)
    assert np.abs(height).max() < 0.03 * voxel
    seen = as_trimesh(mesh)
    outwards = (seen.triangles_center - CENTRE.numpy()) / RADII.numpy() ** 2
    outwards /= np.linalg.norm(outwards, axis=1, keepdims=True)
    area, cosine = seen.area_faces, (seen.face_normals * outwards).sum(1)
    assert cosine[area > 0.01 * voxel**2].min() > 0.99
    assert seen.volume == pytest.approx(4 / 3 * math.pi * RADII.prod().item(), rel=0.01)


def test_what_leaves_the_box_is_closed_at_its_faces() -> None:
    mesh = extract_mesh(field_of(column), 0.8, 33)
    voxel = 0.8 / 32
    low, high = mesh.vertices.min(0), mesh.vertices.max(0)
    np.testing.assert_allclose([low[1], high[1], high[0]], [-0.4, 0.4, 0.4], atol=0.002 * voxel)
    assert low[0] == pytest.approx(0.2, abs=0.03 * voxel)
    half_disc = math.pi * 0.2**2 / 2
    assert as_trimesh(mesh).volume == pytest.approx(0.8 * half_disc, rel=0.01)


def test_dense_core_does_not_move_the_surface() -> None:
    """A floor a hundredth of a voxel above lattice points, below it nearly a wall."""
    voxel = 1 / 32
    floor = 4.01 * voxel

    def density(points: Tensor) -> Tensor:
        height = points[:, 1] - floor
        return LEVEL + torch.where(height < -voxel, 1e5, -height)

    top = extract_mesh(field_of(density), 1.0, 33).vertices[:, 1].max()
    assert top == pytest.approx(floor, abs=1e-4 * voxel)


def test_largest_component_leaves_floaters_and_cavities_out() -> None:
    for density in (two_balls, hollow_ball):
        whole = extract_mesh(field_of(density), 1.0, 32, largest=False)
        largest = extract_mesh(field_of(density), 1.0, 32)
        assert as_trimesh(whole).body_count == 2
        assert as_trimesh(largest).body_count == 1
        assert as_trimesh(largest).area > 0.6 * as_trimesh(whole).area
    assert as_trimesh(whole).volume < as_trimesh(largest).volume  # of the hollow ball


def test_colours_are_the_fields_at_the_vertices() -> None:
    mesh = extract_mesh(field_of(ellipsoid), 1.0, 24)
    assert mesh.colours.dtype == np.uint8
    expected = (2 * mesh.vertices + 1) * 127.5
    np.testing.assert_allclose(mesh.colours, expected, atol=0.51)


def test_chunk_bounds_a_call_and_changes_nothing() -> None:
    sizes = []

    def counted(points: Tensor) -> tuple[Tensor, Tensor]:
        sizes.append(len(points))
        return field_of(waves)(points)

    whole, parts = extract_mesh(field_of(waves), 1.0, 20), extract_mesh(counted, 1.0, 20, chunk=777)
    assert max(sizes) == 777
    for name in ("vertices", "faces", "colours"):
        assert np.array_equal(getattr(whole, name), getattr(parts, name))


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"box": 0.0}, "box is 0.0"),
        ({"box": math.nan}, "box is nan"),
        ({"resolution": 15}, "resolution is 15; keep it from 16 to 1024"),
        ({"resolution": 1025}, "resolution is 1025"),
        ({"level": 1e3}, r"no surface at level 1000; densities reach from -\d+\.\d+ to \d+\.\d+$"),
        ({"level": -1e3}, "no surface at level -1000"),
        ({"level": math.nan}, "no surface at level nan"),
    ],
)
def test_extract_mesh_refuses(asked: dict[str, float], said: str) -> None:
    with pytest.raises(RendererError, match=said):
        extract_mesh(field_of(ellipsoid), **{"box": 1.0, "resolution": 16, **asked})  # type: ignore[arg-type]


def test_empty_space_has_no_surface() -> None:
    with pytest.raises(RendererError, match="densities reach from 0 to 0"):
        extract_mesh(field_of(lambda points: torch.zeros(len(points))), 1.0, 16)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_density_must_be_finite(value: float) -> None:
    def density(points: Tensor) -> Tensor:
        return torch.where(points.amax(dim=1) < -0.49, value, ellipsoid(points))

    with pytest.raises(RendererError, match=rf"density is {value} at \(-0\.5, -0\.5, -0\.5\)"):
        extract_mesh(field_of(density), 1.0, 16)


def test_colours_must_be_finite() -> None:
    with pytest.raises(RendererError, match=r"colour is not finite at \("):
        extract_mesh(lambda points: (ellipsoid(points), points / 0), 1.0, 16)


def test_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage.measure", None)
    with pytest.raises(RendererError, match=r"pip install 'diffstyle360\[mesh\]'"):
        extract_mesh(field_of(ellipsoid), 1.0, 16)


@pytest.fixture(scope="module")
def mesh() -> Mesh:
    return extract_mesh(field_of(ellipsoid), 1.0, 20)


@pytest.mark.parametrize("suffix", [".glb", ".ply", ".PLY"])
def test_written_mesh_reads_back(mesh: Mesh, suffix: str, tmp_path: Path) -> None:
    """Same axes, same order; where there is a material trimesh keeps colours apart."""
    path = tmp_path / f"head{suffix}"
    write_mesh(mesh, path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    scene = trimesh.load_scene(path, process=False)
    (read,) = scene.geometry.values()
    assert isinstance(read, trimesh.Trimesh)
    assert np.array_equal(scene.to_mesh().bounds, read.bounds)  # no node turns it
    assert np.array_equal(read.vertices.astype(np.float32), mesh.vertices)
    assert np.array_equal(read.faces, mesh.faces)
    if isinstance(read.visual, trimesh.visual.TextureVisuals):
        assert np.array_equal(read.visual.vertex_attributes["color"], linear(mesh.colours))
    else:
        assert isinstance(read.visual, trimesh.visual.ColorVisuals)
        assert np.array_equal(read.visual.vertex_colors[:, :3], mesh.colours)


def test_glb_is_laid_out_as_gltf_asks(mesh: Mesh, tmp_path: Path) -> None:
    write_mesh(mesh, tmp_path / "head.glb")
    data = (tmp_path / "head.glb").read_bytes()
    magic, version, length, text_length, kind = struct.unpack_from("<4sIII4s", data)
    assert (magic, version, length, kind) == (b"glTF", 2, len(data), b"JSON")
    assert text_length % 4 == 0
    described = json.loads(data[20 : 20 + text_length])
    size, kind = struct.unpack_from("<I4s", data, 20 + text_length)
    assert (size, kind) == (described["buffers"][0]["byteLength"], b"BIN\0")
    assert len(data) == 28 + text_length + size
    position, colour, index = described["accessors"]
    assert position["count"] == colour["count"] == len(mesh.vertices)
    np.testing.assert_array_equal(np.float32(position["min"]), mesh.vertices.min(0))
    np.testing.assert_array_equal(np.float32(position["max"]), mesh.vertices.max(0))
    assert index["count"] == mesh.faces.size
    assert described["extensionsUsed"] == ["KHR_materials_unlit"]
    start = 28 + text_length + described["bufferViews"][1]["byteOffset"]
    stored = np.frombuffer(data, "<f4", 3 * len(mesh.vertices), start).reshape(-1, 3)
    shown = np.where(stored <= 0.0031308, 12.92 * stored, 1.055 * stored ** (1 / 2.4) - 0.055)
    assert np.array_equal((shown * 255).round(), mesh.colours)


def test_linear_is_srgbs() -> None:
    known = linear(np.array([0, 10, 64, 128, 188, 255], np.uint8))
    np.testing.assert_allclose(
        known, [0, 0.0030353, 0.0512695, 0.2158605, 0.5028865, 1], rtol=0, atol=1e-6
    )


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("head.obj", r"head\.obj: cannot write \.obj; use \.glb or \.ply"),
        ("head", "cannot write no suffix"),
        ("absent/head.ply", r"absent/head\.ply: cannot write \(No such file"),
        ("folder.glb", r"folder\.glb: cannot write \(Is a directory"),
    ],
)
def test_write_mesh_refuses_and_leaves_nothing(
    mesh: Mesh, name: str, said: str, tmp_path: Path
) -> None:
    (tmp_path / "folder.glb").mkdir()
    with pytest.raises(RendererError, match=said):
        write_mesh(mesh, tmp_path / name)
    assert [p.name for p in tmp_path.rglob("*")] == ["folder.glb"]
