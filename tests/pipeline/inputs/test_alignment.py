import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import eg3d_renderer as er
from eg3d_renderer.demo import anatomy
from eg3d_renderer.demo.generator import FRAME
from eg3d_renderer.demo.heads import IDENTITY, head_from
from manifests.bulk import Align
from pipeline.errors import PipelineError
from pipeline.images import ImageFailure
from pipeline.inputs.alignment import (
    TEMPLATE,
    Alignment,
    fit_similarity,
    invert,
    move,
    open_alignment,
    place_face,
    read_template,
)
from tests.pipeline.inputs.yunet import write_seer

WIDE = (640, 480)
ALIGNMENT = Alignment(TEMPLATE, 0.25)
FACE = 240 * TEMPLATE + [200, 120]  # in a picture of the size WIDE

POINTS = hnp.arrays(np.float64, (5, 2), elements=st.floats(-100, 100))


@st.composite
def similarities(draw: st.DrawFn) -> np.ndarray:
    scale, angle = 10 ** draw(st.floats(-1.5, 1.5)), draw(st.floats(-math.pi, math.pi))
    turn = scale * np.array(
        [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    )
    return np.column_stack([turn, draw(hnp.arrays(np.float64, 2, elements=st.floats(-1e3, 1e3)))])


def failure(points: Any, alignment: Alignment = ALIGNMENT, size: int = 64) -> ImageFailure:
    with pytest.raises(ImageFailure) as caught:
        place_face(np.asarray(points, dtype=float), WIDE, alignment, size, "a.png")
    assert str(caught.value).startswith("a.png: ")
    assert "\n" not in str(caught.value)
    return caught.value


@given(similarities())
def test_a_similarity_is_recovered_from_points(matrix: np.ndarray) -> None:
    found = fit_similarity(TEMPLATE * 100, move(TEMPLATE * 100, matrix))
    np.testing.assert_allclose(found, matrix, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(move(move(TEMPLATE, matrix), invert(found)), TEMPLATE, atol=1e-5)


@given(POINTS.filter(lambda points: points.std(0).sum() > 1), POINTS)
def test_it_is_the_least_squares_one_and_never_a_reflection(
    source: np.ndarray, target: np.ndarray
) -> None:
    """Umeyama's own solution, by a singular value decomposition that may not mirror."""
    matrix = fit_similarity(source, target)
    s, t = source - source.mean(0), target - target.mean(0)
    u, strengths, vh = np.linalg.svd(t.T @ s)
    signs = np.diag([1, np.sign(np.linalg.det(u @ vh))])
    scale = (strengths * np.diag(signs)).sum() / np.square(s).sum()
    expected = scale * u @ signs @ vh
    np.testing.assert_allclose(matrix[:, :2], expected, atol=1e-6)
    assert np.linalg.det(matrix[:, :2]) >= 0
    assert matrix[0, 0] == matrix[1, 1]
    assert matrix[0, 1] == -matrix[1, 0]


@given(similarities(), st.integers(16, 1024))
def test_landmarks_land_on_the_template(matrix: np.ndarray, size: int) -> None:
    points = move(TEMPLATE * 100, matrix)
    low, high = points.min(0), points.max(0)
    room = 4 * (high - low).max()
    points = points - low + room
    picture = tuple((high - low + 2 * room).tolist())
    found, facts = place_face(points, picture, Alignment(TEMPLATE, 0), size, "a.png")
    np.testing.assert_allclose(move(points, found), TEMPLATE * size, atol=1e-5 * size)
    assert facts["error"] < 1e-5 * size
    assert facts["landmarks"] == points.tolist()
    assert (facts["matrix"], facts["size"]) == (found.tolist(), size)


def test_an_aligned_picture_stays_where_it_is() -> None:
    found, facts = place_face(TEMPLATE * 256, (256, 256), ALIGNMENT, 256, "a.png")
    np.testing.assert_allclose(found, [[1, 0, 0], [0, 1, 0]], atol=1e-9)
    assert facts["filled"] == 0


def test_template_is_where_the_rig_shows_a_face() -> None:
    """The mean procedural head, through the camera that the 360-degree models share."""
    head = head_from([0.0] * IDENTITY)
    front = anatomy.EYE_Z + head.eye_radius
    mouth = (head.mouth_width, anatomy.MOUTH_Y, 0.85)
    places = torch.tensor(
        [
            (-head.eye_x, 0, front),
            (head.eye_x, 0, front),
            (0, head.nose_y, head.nose_z + head.nose),
            (-mouth[0], *mouth[1:]),
            mouth,
        ]
    )
    world = places * FRAME.scale + torch.tensor(FRAME.centre)
    label = er.cameras.orbit(4, **er.load_generator("procedural").camera)[0]
    to_camera = torch.linalg.inv(label[:16].reshape(4, 4))
    seen = (world @ to_camera[:3, :3].T + to_camera[:3, 3]) @ label[16:].reshape(3, 3).T
    shown = (seen[:, :2] / seen[:, 2:]).numpy()
    assert np.abs(shown - TEMPLATE).max() < 0.015
    apart = fit_similarity(TEMPLATE, shown)
    assert abs(math.hypot(*apart[:, 0]) - 1) < 0.01  # as large


def test_share_beyond_the_border_is_told() -> None:
    for shift, expected in ((0, 0), (-50, 0.25)):
        face = 200 * TEMPLATE + [100 + shift, 100]
        picture = (1000, 1000)
        _, facts = place_face(face - [100, 0], picture, ALIGNMENT, 100, "a.png")
        assert abs(facts["filled"] - expected) < 0.01


def turned(points: np.ndarray, degrees: float) -> np.ndarray:
    """Around the picture's centre."""
    centre = np.array(WIDE) / 2
    turn = math.radians(degrees)
    matrix = np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
    return (points - centre) @ matrix + centre


@pytest.mark.parametrize("degrees", [0, 45, 90, 180, 270])
def test_a_face_may_lie_on_its_side(degrees: float) -> None:
    place_face(turned(FACE, degrees), WIDE, ALIGNMENT, 64, "a.png")


@pytest.mark.parametrize("degrees", [0, 90, 180])
def test_points_of_no_face_are_told(degrees: float) -> None:
    eyes_changed, mouth_changed = FACE[[1, 0, 2, 3, 4]], FACE[[0, 1, 2, 4, 3]]
    mirrored = FACE * [-1, 1] + [640, 0]
    below = FACE[[3, 4, 2, 0, 1]]
    for wrong in (eyes_changed, mouth_changed, mirrored, below, np.full((5, 2), 200.0)):
        found = failure(turned(wrong, degrees))
        assert found.kind == "bad_landmarks"
        assert "no landmarks of a face: " in str(found)


def test_a_profile_is_told() -> None:
    right, left = FACE[1], FACE[0]
    for share, fails in ((0.45, False), (0.55, True), (-0.45, False), (-0.55, True)):
        face = FACE.copy()
        face[2, 0] = (left[0] + right[0]) / 2 + share * (right[0] - left[0])
        if fails:
            assert failure(face).kind == "profile"
        else:
            place_face(face, WIDE, ALIGNMENT, 64, "a.png")


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_a_face_cut_off_is_told_and_cut_hair_is_not(degrees: float) -> None:
    """Through the forehead, the chin, either cheek; hair may be cut, and is filled."""
    size, apart = WIDE, FACE[1, 0] - FACE[0, 0]
    low, high = FACE.min(0), FACE.max(0)
    for shift, fails in [
        ([0, -low[1] + 0.7 * apart], True),
        ([0, -low[1] + 0.85 * apart], False),
        ([0, size[1] - high[1] - 0.3 * apart], True),
        ([0, size[1] - high[1] - 0.8 * apart], False),
        ([-low[0] + 0.2 * apart, 0], True),
        ([-low[0] + 0.3 * apart, 0], False),
        ([size[0] - high[0] - 0.2 * apart, 0], True),
        ([size[0] - high[0] - 0.3 * apart, 0], False),
    ]:
        face = FACE + shift
        picture = size
        if degrees:  # the picture turned with its face
            turns = int(degrees // 90)
            for _ in range(turns):
                face = np.stack([picture[1] - face[:, 1], face[:, 0]], 1)
                picture = (picture[1], picture[0])
        if fails:
            with pytest.raises(ImageFailure, match="the face is cut off") as caught:
                place_face(face, picture, ALIGNMENT, 64, "a.png")
            assert caught.value.kind == "face_cut_off"
        else:
            _, facts = place_face(face, picture, ALIGNMENT, 64, "a.png")
            assert facts["filled"] > 0


def test_a_small_face_is_told() -> None:
    place_face(FACE, WIDE, ALIGNMENT, 240 * 4, "a.png")
    found = failure(FACE, size=240 * 4 + 8)
    assert found.kind == "face_too_small"
    assert "has 240 pixels on a side, under 0.25 of the 968 that the model sees" in str(found)
    assert failure(FACE, Alignment(TEMPLATE, 1), 241).kind == "face_too_small"
    place_face(FACE, WIDE, Alignment(TEMPLATE, 0), 240 * 99, "a.png")


def test_template_of_another_crop(tmp_path: Path) -> None:
    path = tmp_path / "crop.json"
    wide = 0.5 + (TEMPLATE - 0.5) / 2
    path.write_text(json.dumps(wide.tolist()))
    np.testing.assert_allclose(read_template(path), wide)
    alignment = open_alignment(Align(template=path, smallest_face=0.5))
    found, _ = place_face(TEMPLATE * 100, (100, 100), alignment, 50, "a.png")
    np.testing.assert_allclose(found[:, :2], np.eye(2) / 4, atol=1e-9)  # half in half the size
    assert alignment.describe() == {
        "template": wide.tolist(), "smallest_face": 0.5, "detector": None
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "not readable as JSON"),
        ("{", "not readable as JSON"),
        ("[[0.5, 0.5]]", "wants a list of 5 or of 68 points"),
        (json.dumps((TEMPLATE * 512).tolist()), r"its points are not in \[0, 1\]"),
        (json.dumps(TEMPLATE[[1, 0, 2, 3, 4]].tolist()), "wants the picture's left eye"),
        (json.dumps([[0.5, 0.5]] * 5), "points that should differ are the same"),
    ],
)
def test_what_is_no_template_is_one_line(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "crop.json"
    path.write_text(text)
    with pytest.raises(PipelineError, match=told) as caught:
        open_alignment(Align(template=path))
    assert str(caught.value).startswith(f"{path}: ")
    with pytest.raises(PipelineError, match="No such file"):
        read_template(tmp_path / "none.json")


def test_detector_is_described_by_its_file(tmp_path: Path) -> None:
    alignment = open_alignment(Align(detector=write_seer(tmp_path / "yunet.onnx")))
    said = alignment.describe()
    assert said["detector"]["name"] == "yunet.onnx"
    assert len(said["detector"]["sha256"]) == 64
    assert said["template"] == TEMPLATE.tolist()
    with pytest.raises(PipelineError, match="No such file"):
        open_alignment(Align(detector=tmp_path / "none.onnx"))
