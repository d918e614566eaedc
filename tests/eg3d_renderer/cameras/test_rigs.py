"""Rigs: the cameras stand where they say, look at their pivot, and come in the stated order."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from eg3d_renderer import RendererError, cameras

ORACLE = np.load(Path(__file__).parents[2] / "data" / "cameras.npz")
PITCH = math.degrees(math.asin(2 * 0.2 / math.pi))  # elevation of EG3D's pitch -0.2
points = st.tuples(*3 * [st.floats(-0.2, 0.2)])


def angles(label: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Yaw and elevation in degrees, and radius, of every camera, [V] each."""
    x, y, z = cameras.split(label)[0][:, :3, 3].double().unbind(-1)
    radius = (x**2 + y**2 + z**2).sqrt()
    return torch.rad2deg(torch.atan2(x, z)), torch.rad2deg(torch.asin(y / radius)), radius


def test_orbit_goes_round_as_drawn() -> None:
    cam2world, _ = cameras.split(cameras.orbit(4, radius=2.0))
    expected = torch.tensor([[0.0, 0, 2], [2, 0, 0], [0, 0, -2], [-2, 0, 0]])
    torch.testing.assert_close(cam2world[:, :3, 3], expected, rtol=0, atol=1e-6)
    up = torch.tensor([0.0, 1, 0]).expand(4, 3)
    torch.testing.assert_close(-cam2world[:, :3, 1], up, rtol=0, atol=1e-6)


@given(st.data(), st.sampled_from(["orbit", "grid", "spiral", "random", "explicit"]), points)
def test_every_rig_looks_at_its_pivot(data: st.DataObject, kind: str, pivot: Any) -> None:
    count, low, high = data.draw(st.integers(1, 5)), *sorted(data.draw(st.tuples(*2 * [TILTS])))
    radius, focal = data.draw(st.floats(0.5, 5)), data.draw(st.floats(0.5, 9))
    fields: dict[str, Any] = {
        "orbit": {"views": count, "elevation": low},
        "grid": {"columns": count, "rows": 2, "elevation": (low, high)},
        "spiral": {"views": count, "elevation": (high, low)},
        "random": {"views": count, "elevation": (low, high), "seed": count},
        "explicit": {"cameras": [{"azimuth": 400.0, "elevation": low}] * count},
    }[kind]
    label = cameras.make_rig(kind, radius=radius, pivot=pivot, focal=focal, **fields)
    assert label.shape == (2 * count if kind == "grid" else count, 25)
    assert label.dtype == torch.float32
    cam2world, k = cameras.split(label)
    origin, forward, down = cam2world[:, :3, 3], cam2world[:, :3, 2], cam2world[:, :3, 1]
    aim = torch.tensor(pivot).expand_as(origin)
    distance = (aim - origin).norm(dim=1, keepdim=True)
    torch.testing.assert_close(origin + distance * forward, aim, rtol=0, atol=2e-5)
    assert (down[:, 1] < 0).all()  # the head stands upright
    torch.testing.assert_close(k[:, 0, 0], torch.full((len(label),), focal))
    _, elevation, far = angles(label)
    torch.testing.assert_close(far, torch.full_like(far, radius), rtol=1e-5, atol=0)
    assert ((elevation > low - 1e-2) & (elevation < high + 1e-2)).all()


TILTS = st.floats(-80, 80)


def test_grid_is_read_like_a_page() -> None:
    label = cameras.grid(3, 2, yaw=(-30, 60), elevation=(-10, 20))
    yaw, elevation, _ = angles(label)
    expected = torch.tensor([-30.0, 15, 60] * 2).double()
    torch.testing.assert_close(yaw, expected, rtol=0, atol=1e-4)
    expected = torch.tensor([20.0] * 3 + [-10] * 3).double()
    torch.testing.assert_close(elevation, expected, rtol=0, atol=1e-4)


def test_grid_of_one_column_takes_the_middle_and_a_turn_is_not_closed_twice() -> None:
    yaw, elevation, _ = angles(cameras.grid(1, 1, yaw=(10, 30), elevation=(0, 10)))
    assert yaw.item() == pytest.approx(20, abs=1e-4)
    assert elevation.item() == pytest.approx(5, abs=1e-4)
    round_trip = cameras.grid(4, 1, yaw=(0, 360), elevation=(5, 5))
    torch.testing.assert_close(round_trip, cameras.orbit(4, elevation=5), rtol=0, atol=1e-6)


def test_samples_of_the_published_scripts_are_a_grid_and_an_orbit() -> None:
    turn = math.degrees(0.4)
    label = cameras.grid(3, 1, yaw=(-turn, turn), elevation=(PITCH, PITCH), pivot=(0, 0, 0.2))
    expected = torch.from_numpy(ORACLE["gen_samples_eg3d"]).flip(0)
    torch.testing.assert_close(label, expected, rtol=0, atol=1e-5)
    label = cameras.orbit(8, elevation=PITCH)[[0, 7, 6, 5, 4]]
    expected = torch.from_numpy(ORACLE["gen_samples_panohead"])
    torch.testing.assert_close(label, expected, rtol=0, atol=1e-5)


def test_spiral_climbs_and_turns_at_a_steady_pace() -> None:
    yaw, elevation, _ = angles(cameras.spiral(9, turns=1.5, elevation=(30, -10)))
    expected = torch.linspace(0, 540, 9).double()
    assert ((yaw - expected) % 360).sub(180).abs().sub(180).abs().max() < 1e-4
    torch.testing.assert_close(elevation, torch.linspace(30, -10, 9).double(), rtol=0, atol=1e-4)


def test_random_draws_within_its_ranges_and_a_longer_rig_begins_alike() -> None:
    fields: dict[str, Any] = {"yaw": (20, 50), "elevation": (-5, 15), "radius": (2, 3)}
    label = cameras.random(40, seed=3, **fields)
    for drawn, (low, high) in zip(angles(label), fields.values(), strict=True):
        assert low - 1e-4 <= drawn.min() < low + (high - low) / 5
        assert high + 1e-4 >= drawn.max() > high - (high - low) / 5
    assert torch.equal(cameras.random(7, seed=3, **fields), label[:7])
    assert not torch.equal(cameras.random(40, seed=4, **fields), label)
    same_directions = angles(cameras.random(40, seed=3, **fields | {"radius": 2.5}))[:2]
    torch.testing.assert_close(same_directions, angles(label)[:2], rtol=0, atol=1e-4)


def test_explicit_takes_labels_angles_and_files(tmp_path: Path) -> None:
    orbit = cameras.orbit(3, elevation=10, radius=2, focal=3)
    assert torch.equal(cameras.explicit(orbit.tolist()), orbit)
    mixed = [
        orbit[0].tolist(),
        {"azimuth": 120, "elevation": 10, "focal": 3.0},
        {"azimuth": -120.0, "elevation": 10, "focal": 3.0, "radius": 2, "pivot": [0, 0, 0]},
    ]
    path = tmp_path / "cameras.json"
    path.write_text(json.dumps(mixed))
    for label in (cameras.explicit(mixed, radius=2), cameras.explicit(path, radius=2)):
        torch.testing.assert_close(label, orbit, rtol=0, atol=1e-6)
    path.write_text(json.dumps(cameras.to_transforms(orbit, ["a", "b", "c"], 64)))
    assert torch.equal(cameras.make_rig("explicit", file=str(path), pivot=None), orbit)


@pytest.mark.parametrize(
    ("kind", "asked", "said"),
    [
        ("orbit", {"views": 0}, "orbit: views is 0; ask"),
        ("orbit", {"views": 4, "elevation": 90}, "orbit: elevation is 90; keep"),
        ("orbit", {"views": 4, "elevation": math.nan}, "orbit: elevation is nan; keep"),
        ("orbit", {"views": 4, "radius": 0}, "orbit: radius 0, focal 4.2634; both"),
        ("orbit", {"views": 4, "focal": math.nan}, "orbit: radius 2.7, focal nan; both"),
        ("orbit", {"views": 4, "radius": 1e39}, "orbit: view 0: a number is not finite"),
        ("orbit", {"views": 4, "pivot": (0, 1)}, "orbit: pivot: must be 3 numbers"),
        ("orbit", {"views": 4, "pivot": (0, 0, 2.7)}, "orbit: pivot 0, 0, 2.7: a camera there"),
        ("orbit", {"views": 4, "pivot": (0, 9, -2.7)}, "orbit: pivot 0, 9, -2.7: a camera"),
        ("orbit", {"views": 4, "pivot": (0, math.nan, 0)}, "orbit: view 0: a number"),
        ("grid", {"columns": 0, "rows": 1}, "grid: columns is 0; ask"),
        ("grid", {"columns": 1, "rows": 0}, "grid: rows is 0; ask"),
        ("grid", {"columns": 1, "rows": 1, "yaw": (9, -9)}, "grid: yaw is 9..-9; give the lower"),
        ("grid", {"columns": 1, "rows": 1, "yaw": (-200, 200)}, "grid: yaw is -200..200; keep"),
        ("grid", {"columns": 1, "rows": 1, "elevation": (9, 8)}, "grid: elevation is 9..8; give"),
        ("grid", {"columns": 1, "rows": 1, "elevation": (0, 90)}, "grid: elevation is 90; keep"),
        ("spiral", {"views": 0}, "spiral: views is 0; ask"),
        ("spiral", {"views": 3, "turns": 0}, "spiral: turns is 0; give"),
        ("spiral", {"views": 3, "elevation": (-90, 0)}, "spiral: elevation is -90; keep"),
        ("random", {"views": -1}, "random: views is -1; ask"),
        ("random", {"views": 3, "seed": -1}, "random: seed is -1; give"),
        ("random", {"views": 3, "radius": (3, 2)}, "random: radius is 3..2; give the lower"),
        ("random", {"views": 3, "radius": (-1, 2)}, "random: radius -1, focal 4.2634; both"),
        ("random", {"views": 3, "yaw": (0, math.nan)}, "random: yaw is 0..nan; give the lower"),
        ("explicit", {"cameras": []}, "explicit: must be a list of one camera or more"),
        ("explicit", {"cameras": [[1] * 24]}, "explicit: camera 0: must be 25 numbers"),
        ("explicit", {"cameras": [None]}, "explicit: camera 0: missing; give 25 numbers"),
        ("explicit", {"cameras": [[1] * 25]}, "explicit: view 0: the last row"),
        ("explicit", {"cameras": [{"azimuth": 1}]}, "explicit: camera 0: elevation: missing; give"),
        ("explicit", {"cameras": [{"azimut": 1}]}, "explicit: camera 0: no 'azimut'; did you mean"),
        (
            "explicit",
            {"cameras": [{"azimuth": math.inf, "elevation": 0}]},
            "explicit: camera 0: azimuth is inf",
        ),
        (
            "explicit",
            {"cameras": [{"azimuth": 0, "elevation": "up"}]},
            "explicit: camera 0: elevation: must be a number",
        ),
        ("explicit", {}, "rig explicit: give exactly one of file and cameras"),
        ("explicit", {"file": "a", "cameras": []}, "rig explicit: give exactly one of"),
        ("orbti", {}, "rig: no kind 'orbti'; did you mean 'orbit'"),
        ("orbit", {"views": None}, "rig orbit: views is missing"),
        ("orbit", {"views": 3, "elevaton": 1}, "rig orbit: no 'elevaton'; did you mean"),
    ],
)
def test_what_cannot_be_made_is_said_in_one_line(
    kind: str, asked: dict[str, Any], said: str
) -> None:
    with pytest.raises(RendererError) as caught:
        cameras.make_rig(kind, **asked)
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[1,\n 2", "line 2: not JSON"),
        (b"\xff", "not a JSON file of cameras"),
        (b"[" * 10**5, "not a JSON file of cameras"),
        (b"[" + b"1" * 5000 + b"]", "not a JSON file of cameras"),
        (b"3", "must be a list of one camera or more"),
        (b"{}", "frames: must be a list of one camera or more"),
        (b"[[1, 2]]", "camera 0: must be 25 numbers"),
        (b'[{"azimuth": 1e999, "elevation": 0}]', "camera 0: azimuth is inf"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "cameras.json"
    with pytest.raises(RendererError, match=f"^{path}: cannot read it: No such file"):
        cameras.explicit(path)
    path.write_bytes(content)
    with pytest.raises(RendererError, match=f"^{path}: {said}"):
        cameras.explicit(path)
