"""Other programs' conventions: there and back is exact, and both see a point at the same pixel."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from eg3d_renderer import RendererError, cameras

seeds = st.integers(0, 2**32 - 1)


def some_labels(seed: int, views: int = 3) -> Tensor:
    """Cameras from anywhere, each with a lens of its own."""
    labels = cameras.random(views, seed=seed, elevation=(-80, 80), radius=(0.5, 4))
    drawn = torch.rand(views, 4, generator=torch.Generator().manual_seed(seed))
    labels[:, [16, 20, 18, 21]] = drawn + torch.tensor([1.0, 1, 0, 0])  # fx, fy, cx, cy
    return labels


@given(seeds)
def test_axes_go_there_and_back_exactly(seed: int) -> None:
    for dtype in (torch.float32, torch.float64):
        pose = cameras.split(some_labels(seed))[0].to(dtype)
        for there, back in (
            (cameras.to_opengl, cameras.from_opengl),
            (cameras.to_blender, cameras.from_blender),
        ):
            moved = there(pose)
            assert moved.dtype == dtype
            assert not torch.equal(moved, pose)
            assert torch.equal(back(moved), pose)
            assert torch.equal(there(back(pose)), pose)
            assert torch.equal(there(pose[0]), moved[0])
            cameras.validate(cameras.label(moved.float(), cameras.intrinsics()))  # still a pose


def test_blender_sees_the_head_upright_with_its_face_to_minus_y() -> None:
    front = cameras.to_blender(cameras.split(cameras.orbit(1, radius=2.0))[0][0])
    torch.testing.assert_close(front[:3, 3], torch.tensor([0.0, -2, 0]))  # before the face
    torch.testing.assert_close(front[:3, 1], torch.tensor([0.0, 0, 1]))  # camera up is world up
    torch.testing.assert_close(-front[:3, 2], torch.tensor([0.0, 1, 0]))  # looks along -z
    side = cameras.to_opengl(cameras.split(cameras.orbit(4, radius=2.0))[0][1])
    torch.testing.assert_close(side[:3, 3], torch.tensor([2.0, 0, 0]))  # the world stays
    torch.testing.assert_close(-side[:3, 2], torch.tensor([-1.0, 0, 0]))
    torch.testing.assert_close(side[:3, 1], torch.tensor([0.0, 1, 0]))


@given(seeds, st.lists(st.floats(-0.3, 0.3), min_size=3, max_size=3))
def test_a_point_lands_on_the_same_pixel_either_way(seed: int, point: list[float]) -> None:
    size, labels = 200, some_labels(seed).double()
    content = cameras.to_transforms(labels.float(), ["a", "b", "c"], size)
    x, y, z = point
    for label, frame in zip(labels, content["frames"], strict=True):
        cam2world, k = cameras.split(label)
        seen = k @ (torch.linalg.inv(cam2world) @ torch.tensor([x, y, z, 1]).double())[:3]
        ours = size * seen[:2] / seen[2]
        # as a reader of transforms.json does it: z-up world, the camera looks along -z
        matrix = torch.tensor(frame["transform_matrix"], dtype=torch.float64)
        right, up, back, _ = torch.linalg.inv(matrix) @ torch.tensor([x, -z, y, 1]).double()
        theirs = [
            frame["fl_x"] * right / -back + frame["cx"],
            frame["fl_y"] * -up / -back + frame["cy"],
        ]
        torch.testing.assert_close(torch.stack(theirs), ours, rtol=0, atol=1e-6 * size)


@given(seeds, st.integers(1, 3000), st.booleans())
def test_transforms_come_back_exactly(seed: int, resolution: int, same_lens: bool) -> None:
    labels = some_labels(seed)
    if same_lens:
        labels[:, 16:] = labels[0, 16:]
    content = cameras.to_transforms(labels, ["a.png", "b.png", "c.png"], resolution)
    lens = {"camera_angle_x", "fl_x", "fl_y", "cx", "cy", "w", "h"}
    assert content.keys() == (lens | {"frames"} if same_lens else {"frames"})
    for name, frame in zip("abc", content["frames"], strict=True):
        assert frame.keys() - {"file_path", "transform_matrix"} == (set() if same_lens else lens)
        assert frame["file_path"] == f"{name}.png"
    assert torch.equal(cameras.from_transforms(json.loads(json.dumps(content))), labels)


def test_the_oldest_transforms_have_an_angle_alone(tmp_path: Path) -> None:
    labels = cameras.orbit(2, elevation=5)
    content = cameras.to_transforms(labels, ["a", "b"], 64)
    assert content["camera_angle_x"] == pytest.approx(math.radians(13.378), abs=1e-4)
    path = tmp_path / "transforms.json"
    path.write_text(json.dumps({k: content[k] for k in ("camera_angle_x", "frames")}))
    torch.testing.assert_close(cameras.from_transforms(path), labels, rtol=1e-6, atol=0)


def test_a_frames_own_lens_goes_first() -> None:
    matrix = torch.eye(4).tolist()
    frames = [
        {"transform_matrix": matrix},
        {"transform_matrix": matrix, "camera_angle_x": math.pi / 2},
        {"transform_matrix": matrix, "fl_x": 30, "fl_y": 40.0, "cx": 2, "cy": 3},
    ]
    content = {"fl_x": 20, "w": 10, "h": 10, "camera_model": "OPENCV", "k1": 0.0, "frames": frames}
    _, k = cameras.split(cameras.from_transforms(content))
    expected = torch.tensor([[2, 2, 0.5, 0.5], [0.5, 0.5, 0.5, 0.5], [3, 4, 0.2, 0.3]])
    torch.testing.assert_close(k[:, [0, 1, 0, 1], [0, 1, 2, 2]], expected)


FRAME = {"transform_matrix": torch.eye(4).tolist(), "camera_angle_x": 0.3}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({}, "frames: must be a list of one camera or more"),
        ({"frames": []}, "frames: must be a list of one camera or more"),
        ({"frames": [FRAME, 3]}, "frames.1: must be an object with a transform_matrix"),
        ({"frames": [{}]}, "frames.0.transform_matrix: missing; give 4 x 4 numbers"),
        ({"frames": [{"transform_matrix": [[1, 2], [3]]}]}, "frames.0.transform_matrix: must be"),
        ({"frames": [{"transform_matrix": [["a"] * 4] * 4}]}, "frames.0.transform_matrix: must be"),
        ({"frames": [FRAME | {"transform_matrix": [[2.0] * 4] * 4}]}, "view 0: the last row"),
        ({"frames": [FRAME | {"camera_angle_x": 4}]}, "frames.0: give fl_x in pixels, or"),
        ({"frames": [FRAME | {"camera_angle_x": "wide"}]}, "frames.0.camera_angle_x: must be"),
        ({"frames": [FRAME | {"fl_x": -9, "w": 9}]}, "view 0: a focal length is not positive"),
        ({"frames": [FRAME | {"fl_x": 9}]}, "frames.0.w: missing"),
        ({"w": 9, "h": 8, "frames": [FRAME]}, "frames.0: w and h differ: labels are of square"),
        ({"w": 0, "frames": [FRAME]}, "frames.0: w and h differ"),
        ({"k2": 0.1, "frames": [FRAME]}, "frames.0.k2: a label has no distortion"),
        ({"camera_model": "OPENCV_FISHEYE", "frames": [FRAME]}, "frames.0: camera_model: only"),
        ({"camera_model": ["x"], "frames": [FRAME]}, "frames.0: camera_model: only"),
    ],
)
def test_from_transforms_refuses(tmp_path: Path, content: dict[str, Any], said: str) -> None:
    with pytest.raises(RendererError, match=f"^transforms: {said}"):
        cameras.from_transforms(content)
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(content))
    with pytest.raises(RendererError, match=f"^{path}: {said}"):
        cameras.from_transforms(path)


def test_to_transforms_refuses() -> None:
    labels = cameras.orbit(2)
    with pytest.raises(RendererError, match="1 names for 2 views"):
        cameras.to_transforms(labels, ["a"], 64)
    with pytest.raises(RendererError, match="resolution is 0"):
        cameras.to_transforms(labels, ["a", "b"], 0)
    with pytest.raises(RendererError, match=r"expected \[V, 25\]"):
        cameras.to_transforms(labels[0], ["a"], 64)
    labels[1, 17] = 0.1
    with pytest.raises(RendererError, match="view 1 has a skewed lens"):
        cameras.to_transforms(labels, ["a", "b"], 64)
