"""Landmarks of a face as people and programs write them down.

Five points make a face: the eye on the picture's left, the eye on its right, the nose tip, the left
and the right corner of the mouth. Coordinates are continuous, x to the right and y down: (0, 0) is
the picture's upper left corner, (0.5, 0.5) the centre of its first pixel, (width, height) the lower
right corner. What counts pixels from their centres is half a pixel off, less than landmarks are.
"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

Points = tuple[tuple[float, float], ...]  # five, x and y of each

# Of iBUG's 68 points, which dlib gives: the eyes' rims, the nose tip, the mouth's corners.
_OF_68 = (range(36, 42), range(42, 48), (30,), (48,), (54,))


def decode_landmarks(text: str | bytes) -> Points:
    """The five points that JSON says. Raises ValueError with the reason, as `parse_landmarks`."""
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("not readable as JSON") from None
    return parse_landmarks(said)


def parse_landmarks(value: Any) -> Points:
    """The five points of a list of 5 or 68 [x, y], or of a mapping that has it as `landmarks`.

    Raises ValueError with the reason.
    """
    if isinstance(value, Mapping):
        if "landmarks" not in value:
            raise ValueError("no key 'landmarks'")
        value = value["landmarks"]
    try:
        points = np.asarray(value)
    except ValueError:  # lists of several lengths
        points = np.empty(0)
    if points.dtype.kind not in "iuf" or points.shape not in ((5, 2), (68, 2)):
        raise ValueError("wants a list of 5 or of 68 points [x, y]")
    points = points.astype(np.float64)
    if not np.isfinite(points).all():
        raise ValueError("a coordinate is not finite")
    if len(points) == 68:
        points = np.array([points[list(some)].mean(0) for some in _OF_68])
    return tuple((x, y) for x, y in points.tolist())
