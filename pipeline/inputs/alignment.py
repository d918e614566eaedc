"""A face to its place in the crop that a model knows: a similarity transform, and its checks.

Points and their coordinates are those of `pipeline.inputs.landmarks`.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from manifests.bulk import Align
from pipeline.errors import PipelineError
from pipeline.images import ImageFailure, read_file
from pipeline.inputs.detection import Detector, open_detector
from pipeline.inputs.landmarks import decode_landmarks

# FFHQ's layout: the mean of its five points in the 512 px of its crop, as facexlib publishes them.
_FFHQ = np.array(
    [
        [192.98138, 239.94708],
        [318.90277, 240.19360],
        [256.63416, 314.01935],
        [201.26117, 371.41043],
        [313.08905, 371.15118],
    ]
)
# FFHQ's crop cuts hair off; the rig that the 360-degree models share (radius 2.7, focal 4.2647 of
# the image, pivot at the head) shows a head from farther off. Through it, the eyes of this
# package's procedural heads lie 0.82 times as far apart as FFHQ's; a test holds that.
_SMALLER = 0.82
TEMPLATE = 0.5 + _SMALLER * (_FFHQ / 512 - 0.5)  # [5, 2], shares of the crop

# Distances between the eyes that a whole face reaches from between them, drawn tight: to
# mid-forehead, to the chin, and from each eye outwards.
_UP, _DOWN, _OUT = 0.75, 1.6, 0.25
_GRID = 64  # points on a side of the crop at which it is seen whether the picture reaches there


@dataclass(frozen=True)
class Alignment:
    """How lone portraits are aligned."""

    template: np.ndarray  # [5, 2], in [0, 1] of the crop
    smallest_face: float  # pixels of the picture for one of the crop, on a side
    detector: Detector | None = None  # of faces that come without landmarks

    def describe(self) -> dict[str, Any]:
        """For records: all that decides where a face comes to lie."""
        found = self.detector and {"name": self.detector.name, "sha256": self.detector.sha256}
        return {
            "template": self.template.tolist(),
            "smallest_face": self.smallest_face,
            "detector": found,
        }


def open_alignment(asked: Align) -> Alignment:
    """Read the template and load the detector. Raises PipelineError where one cannot be used."""
    template = TEMPLATE if asked.template is None else read_template(asked.template)
    detector = None if asked.detector is None else open_detector(asked.detector)
    return Alignment(template, asked.smallest_face, detector)


def read_template(path: Path) -> np.ndarray:
    """The five points [5, 2] of a JSON file, in [0, 1] of the crop. Raises PipelineError."""
    try:
        points = np.array(decode_landmarks(read_file(path, str(path))))
        if points.min() < 0 or points.max() > 1:
            raise ValueError("its points are not in [0, 1], shares of the crop's side")
        if reason := _find_disorder(points):
            raise ValueError(reason)
    except ValueError as error:
        raise PipelineError(f"{path}: no template of five points: {error}") from None
    return points


def fit_similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The rotation, uniform scale and translation [2, 3] that take source nearest to target.

    Both are [N, 2], with two different points at least in `source`. Least squares over the N
    points, without reflection: Umeyama, "Least-squares estimation of transformation parameters
    between two point patterns", PAMI 1991. In the plane this is a regression of complex numbers.
    """
    z, w = (points[:, 0] + 1j * points[:, 1] for points in (source, target))
    z0, w0 = z.mean(), w.mean()
    turn = np.vdot(z - z0, w - w0) / np.vdot(z - z0, z - z0).real
    shift = w0 - turn * z0
    return np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])


def move(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Points [N, 2] through a matrix [2, 3]."""
    return points @ matrix[:, :2].T + matrix[:, 2]


def invert(matrix: np.ndarray) -> np.ndarray:
    """The matrix [2, 3] that undoes one."""
    return np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))[:2]


def place_face(
    points: np.ndarray, picture: tuple[int, int], alignment: Alignment, size: int, name: str
) -> tuple[np.ndarray, dict[str, Any]]:
    """The matrix [2, 3] from a picture (width, height) to its crop of `size` pixels, and facts.

    The facts are the "landmarks", the "matrix", the "size" it leads to, the "error" that is left at
    the landmarks (root mean square, in pixels of the crop) and the share of the crop that is
    "filled": beyond the picture's border.

    Raises ImageFailure: bad_landmarks, profile, face_cut_off, face_too_small.
    """
    _check_face(points, picture, name)
    target = alignment.template * size
    matrix = fit_similarity(points, target)
    seen = 1 / math.hypot(*matrix[:, 0])  # pixels of the picture for one of the crop
    if seen < alignment.smallest_face:
        raise ImageFailure(
            "face_too_small",
            f"{name}: the crop around the face has {size * seen:.0f} pixels on a side, under "
            f"{alignment.smallest_face:g} of the {size} that the model sees",
        )
    ticks = (np.arange(_GRID) + 0.5) * size / _GRID
    grid = np.stack(np.meshgrid(ticks, ticks), -1).reshape(-1, 2)
    facts = {
        "landmarks": points.tolist(),
        "matrix": matrix.tolist(),
        "size": size,
        "error": float(np.sqrt(np.square(move(points, matrix) - target).sum(1).mean())),
        "filled": float((~_is_inside(move(grid, invert(matrix)), picture)).mean()),
    }
    return matrix, facts


def _check_face(points: np.ndarray, picture: tuple[int, int], name: str) -> None:
    if reason := _find_disorder(points):
        raise ImageFailure("bad_landmarks", f"{name}: no landmarks of a face: {reason}")
    left, right, nose, *_ = points
    middle, across = (left + right) / 2, right - left
    if abs((nose - middle) @ across) > across @ across / 2:
        told = "the nose lies beyond an eye; what is wanted is a face from the front"
        raise ImageFailure("profile", f"{name}: a profile: {told}")
    down = np.array([-across[1], across[0]])
    ends = middle - _UP * down, middle + _DOWN * down, left - _OUT * across, right + _OUT * across
    if not _is_inside(np.array(ends), picture).all():
        told = "its forehead, chin or a cheek lies beyond the picture's border"
        raise ImageFailure("face_cut_off", f"{name}: the face is cut off: {told}")


def _find_disorder(points: np.ndarray) -> str | None:
    """What is wrong with five points, whichever way up the face is; None where nothing is."""
    across = points[1] - points[0]
    down = points[3:].mean(0) - points[:2].mean(0)
    if not across.any() or not down.any():
        return "points that should differ are the same"
    if across[0] * down[1] - across[1] * down[0] <= 0 or (points[4] - points[3]) @ across <= 0:
        return "wants the picture's left eye, the right, the nose tip, the mouth's left end, right"
    return None


def _is_inside(points: np.ndarray, picture: tuple[int, int]) -> np.ndarray:
    inside = (points >= 0) & (points <= np.array(picture))
    return inside[:, 0] & inside[:, 1]
