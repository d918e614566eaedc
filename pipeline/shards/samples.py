"""Is a sample what a sample must be: members that decode, cameras that are cameras."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from pipeline.shards import ShardError
from pipeline.shards.codecs import LEVELS, decode

_TOLERANCE = 1e-4  # of R R^T = 1 and det R = 1, float32 labels
_KINDS = {
    "rgb": ({"uint8"}, 3),
    "normal": ({"uint8"}, 3),
    "mask": ({"uint8"}, 2),
    "depth": ({"uint16", "float32"}, 2),
    "zdepth": ({"uint16", "float32"}, 2),
    "latent": ({"float16"}, 3),
}
_DEPTHS = {"depth": "depth", "zdepth": "z_depth"}  # kind: where the JSON tells its range


class Fault(NamedTuple):
    member: str  # suffix; empty where the whole sample is meant
    what: str


class Sample(NamedTuple):
    key: str
    seed: int
    split: str
    members: Mapping[str, bytes]  # by suffix


def check_sample(sample: Sample) -> tuple[list[Fault], dict[str, str]]:
    """Faults of a sample, and by member its dtype and shape, which all samples share."""
    values: dict[str, Any] = {}
    faults: list[Fault] = []
    for suffix, data in sample.members.items():
        try:
            values[suffix] = decode(suffix, data)
        except ShardError as error:
            faults.append(Fault(suffix, str(error).removeprefix(f"{suffix}: ")))
    meta = values.pop("json", None)
    specs = {
        s: f"{v.dtype} {list(v.shape)}" for s, v in values.items() if isinstance(v, np.ndarray)
    }
    if "json" not in sample.members:
        faults.append(Fault("json", "missing"))
    elif meta is not None or not faults:
        faults += [Fault("json", what) for what in _check_meta(meta, sample)]
    if not faults:
        faults += _check_arrays(meta, values)
    return faults, specs


def _check_meta(meta: Any, sample: Sample) -> Iterator[str]:
    if not isinstance(meta, dict):
        yield "not an object"
        return
    for field in ("key", "seed", "split"):
        stated, known = meta.get(field), getattr(sample, field)
        if stated != known:
            yield f"{field} is {stated!r}, the Parquet says {known!r}"
    views = meta.get("views")
    if not isinstance(views, list) or not all(isinstance(view, dict) for view in views):
        yield "views is not a list of objects"
        return
    names = [view.get("name") for view in views]
    stored = list(dict.fromkeys(s.split(".")[0] for s in sample.members if s.startswith("view_")))
    if names != stored:
        yield f"views are {_brief(names)}, the members are of {_brief(stored)}"
    unknown = meta.get("cameras") == "unknown"  # of views that came without, from elsewhere
    for view in views:
        if what := _check_absence(view) if unknown else check_camera(view):
            yield f"{view.get('name')}: {what}"
            return
    for kind in sorted({_kind(suffix) for suffix in sample.members} & set(_DEPTHS)):
        start, end = _depth_range(meta, kind)
        if not (start < end and math.isfinite(end - start)):
            yield f"{_DEPTHS[kind]} does not say where it starts and ends"


def _check_absence(view: Mapping[str, Any]) -> str | None:
    return "has a camera, though cameras are unknown" if view.keys() - {"name"} else None


def check_camera(view: Mapping[str, Any]) -> str | None:
    """What is wrong with a view's "label" [25], "cam2world" [4, 4], "intrinsics" [3, 3]; or None.

    OpenCV cam2world with an orthonormal rotation of determinant +1; intrinsics normalised by the
    image size with positive focal lengths.
    """
    try:
        label = np.array(view["label"], np.float64)
        pose = np.array(view["cam2world"], np.float64)
        intrinsics = np.array(view["intrinsics"], np.float64)
    except (KeyError, TypeError, ValueError, OverflowError):
        return "camera is not given by label, cam2world and intrinsics"
    if label.shape != (25,) or pose.shape != (4, 4) or intrinsics.shape != (3, 3):
        return f"camera label has shape {list(label.shape)}, expected [25], [4, 4] and [3, 3]"
    if not np.isfinite(label).all():
        return "camera is not finite"
    if not np.array_equal(label, np.concatenate([pose.ravel(), intrinsics.ravel()])):
        return "label differs from cam2world and intrinsics"
    rotation = pose[:3, :3]
    if np.abs(rotation @ rotation.T - np.eye(3)).max() > _TOLERANCE:
        return "cam2world is no rotation (not orthonormal)"
    if abs(np.linalg.det(rotation) - 1) > _TOLERANCE:
        return "cam2world mirrors (determinant is not +1)"
    if pose[3].tolist() != [0, 0, 0, 1]:
        return "last row of cam2world is not 0 0 0 1"
    if intrinsics[0, 0] <= 0 or intrinsics[1, 1] <= 0:
        return "focal length is not positive"
    if intrinsics[1, 0] != 0 or intrinsics[2].tolist() != [0, 0, 1]:
        return "intrinsics are not upper triangular with 0 0 1 below"
    return None


def _check_arrays(meta: Mapping[str, Any], values: Mapping[str, Any]) -> Iterator[Fault]:
    resolution = meta.get("resolution")
    for suffix, value in values.items():
        kind = _kind(suffix)
        if kind not in _KINDS:
            continue
        dtypes, dimensions = _KINDS[kind]
        found = f"{value.dtype} {list(value.shape)}"
        if value.dtype.name not in dtypes or value.ndim != dimensions:
            yield Fault(suffix, f"is {found}, no {kind}")
        elif suffix.startswith("view_") and kind == "rgb" and _is_off(value, resolution):
            yield Fault(suffix, f"is {found}, the JSON says resolution {resolution}")
        elif kind in _DEPTHS:
            start, end = _depth_range(meta, kind)
            levels = meta[_DEPTHS[kind]].get("levels")
            if levels != (LEVELS if value.dtype == np.uint16 else None):
                yield Fault(suffix, f"is {found}, the JSON says levels otherwise")
            elif value.dtype == np.float32 and not _within(value, start, end):
                yield Fault(suffix, f"{_DEPTHS[kind]} not in [{start:g}, {end:g}]")


def _is_off(image: np.ndarray, resolution: int | None) -> bool:
    return resolution is not None and image.shape[:2] != (resolution, resolution)


def _within(depth: np.ndarray, start: float, end: float) -> bool:
    slack = (end - start) / LEVELS / 2  # what the encoder allows
    return bool(((depth >= start - slack) & (depth <= end + slack)).all())  # NaN is not within


def _depth_range(meta: Mapping[str, Any], kind: str) -> tuple[float, float]:
    """Start and end of a kind of depth that a sample's JSON states, NaN where it states none."""
    depth = meta.get(_DEPTHS[kind])
    start, end = (depth.get("start"), depth.get("end")) if isinstance(depth, dict) else (None, None)
    if not isinstance(start, int | float) or not isinstance(end, int | float):
        return math.nan, math.nan
    return float(start), float(end)


def _kind(suffix: str) -> str:
    parts = suffix.split(".")
    return parts[1] if len(parts) == 3 else ""


def _brief(names: Sequence[Any]) -> str:
    return f"{len(names)} from {names[0]}" if names else "none"
