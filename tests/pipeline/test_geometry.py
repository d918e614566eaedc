"""Depth and cameras as stored in a shard: they carry any view of an orbit into any other."""

import numpy as np
import pytest
import torch

from manifests import RunManifest
from pipeline.folders import RunFolder
from pipeline.images import to_model
from pipeline.shards.codecs import depth_from_levels
from pipeline.shards.reader import Column, read_clip
from pipeline.stages.plan import plan_run
from pipeline.stages.render import render_shard
from stylize.geometry import project, unproject, warp
from tests.conftest import TINY

VIEWS, SIZE = 32, 64
LEAST_SEEN = 200  # pixels in common, below which a pair says nothing


@pytest.fixture(scope="module")
def orbit(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, float]:
    """Images [V, 3, R, R], depth [V, 1, R, R], cameras [V, 25] and the background's depth."""
    content = TINY | {
        "rig": {"views": VIEWS, "elevation": 10.0},
        "outputs": {"resolution": SIZE},
        "identities": {"test": 1},
        "finetune": None,
        "stylize": None,
        "styles": {},
    }
    folder = RunFolder(RunManifest.model_validate(content), tmp_path_factory.mktemp("orbit"))
    plan_run(folder)
    render_shard(folder, "render", "test-00000", torch.device("cpu"))
    column = Column(folder.column("render"))
    [key] = column.keys
    meta = column.read(key, ["json"])["json"]
    limits = meta["depth"]
    levels = read_clip(column, key, range(VIEWS), "depth")
    depth = torch.from_numpy(depth_from_levels(levels, limits["start"], limits["end"]))[:, None]
    cameras = torch.tensor([view["label"] for view in meta["views"]])
    images = to_model(read_clip(column, key, range(VIEWS)), SIZE)
    return images, depth, cameras, float(np.float32(limits["end"]))


def test_every_pair_of_the_orbit_agrees(orbit: tuple) -> None:
    images, depth, cameras, background = orbit
    pairs = [(i, j) for i in range(VIEWS) for j in range(VIEWS) if i != j]
    seen, colours, distances = 0, [], []
    for i, j in pairs:
        views = (depth[i], depth[j], cameras[i], cameras[j])
        warped, valid = warp(images[i], *views, background=background)
        if valid.sum() < LEAST_SEEN:
            continue
        seen += 1
        colours.append((warped - images[j]).abs().mean(0)[valid[0]].median())
        position, distance = project(unproject(depth[j], cameras[j]), cameras[i])
        stored, _ = warp(depth[i], *views, background=background)
        distances.append(((stored[0] - distance) / distance).abs()[valid[0]].median())
        assert position[valid[0]].min() > 0
    # views up to a quarter turn apart share a side of the head, wherever on the circle they are
    assert seen >= VIEWS * 2 * (VIEWS // 4)
    assert max(distances) < 2e-3
    assert max(colours) < 0.12  # of a range of 2: texture is resampled, highlights move


@pytest.mark.parametrize("fault", ["mirrored", "z instead of ray", "shifted"])
def test_a_wrong_convention_is_seen(orbit: tuple, fault: str) -> None:
    """The same measure on faulty data: the bound above is not one that anything meets."""
    images, depth, cameras, background = orbit
    cameras, depth = cameras.clone(), depth.clone()
    if fault == "mirrored":
        cameras[:, [0, 4, 8]] *= -1
    elif fault == "shifted":
        depth = (depth + 0.05).clamp(max=background)
    else:
        grid = (torch.arange(SIZE) + 0.5) / SIZE - 0.5
        off_axis = grid[:, None] ** 2 + grid[None] ** 2
        depth = torch.where(depth < background, depth * (1 + 40 * off_axis / 4.2634**2), depth)
    agreement = []
    for i in range(0, VIEWS, 4):
        j = (i + 3) % VIEWS
        _, right = warp(
            images[i], orbit[1][i], orbit[1][j], orbit[2][i], orbit[2][j], background=background
        )
        _, wrong = warp(
            images[i], depth[i], depth[j], cameras[i], cameras[j], background=background
        )
        agreement.append(float(wrong.sum() / right.sum()))
    assert np.mean(agreement) < 0.9


def test_opposite_views_share_nothing(orbit: tuple) -> None:
    images, depth, cameras, background = orbit
    _, valid = warp(images[0], depth[0], depth[16], cameras[0], cameras[16], background=background)
    assert valid.float().mean() < 0.02
