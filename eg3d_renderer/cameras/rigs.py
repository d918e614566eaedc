"""Rigs: the cameras that every identity is seen from, as labels [V, 25] float32.

Angles are degrees: yaw 0 in front and 90 at +x, elevation positive above. All cameras stand on a
sphere of `radius` around the origin and look at `pivot`. A rig raises RendererError, one line, for
what it cannot make. Only an orbit is a closed circle, whose last view neighbours its first.
"""

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eg3d_renderer.cameras.conventions import numbers, read_json, transforms_labels
from eg3d_renderer.cameras.poses import FOCAL, RADIUS, intrinsics, label, sample_pose, validate
from eg3d_renderer.errors import RendererError, suggest

Range = tuple[float, float]
Point = tuple[float, float, float]
ORIGIN = (0.0, 0.0, 0.0)


def orbit(
    views: int,
    *,
    elevation: float = 0.0,
    radius: float = RADIUS,
    pivot: Point = ORIGIN,
    focal: float = FOCAL,
) -> Tensor:
    """A full circle: view 0 in front, view i at yaw 360 i / V, the back at view V/2."""
    _check_views("orbit", views)
    _check_elevation("orbit", elevation)
    azimuth = torch.arange(views, dtype=torch.float64) * (2 * math.pi / views)
    labels = _aim("orbit", azimuth, elevation, radius, pivot, focal)
    validate(labels, "orbit")
    return labels


def grid(
    columns: int,
    rows: int,
    *,
    yaw: Range = (-45.0, 45.0),
    elevation: Range = (-20.0, 20.0),
    radius: float = RADIUS,
    pivot: Point = ORIGIN,
    focal: float = FOCAL,
) -> Tensor:
    """`rows` of `columns` views, row by row: the highest elevation first, in a row the lowest yaw.

    Both ends of a range are taken, of one column or row the middle; a yaw range of 360 is divided
    into columns without doubling its end.
    """
    _check_views("grid", columns, "columns")
    _check_views("grid", rows, "rows")
    _check_yaw("grid", *yaw)
    _check_elevation("grid", *elevation)
    _check_order("grid", "elevation", *elevation)
    across = _spread(*yaw, columns, closed=yaw[1] - yaw[0] == 360)
    down = reversed(_spread(*elevation, rows))
    return _place("grid", [(a, e, radius) for e in down for a in across], pivot, focal)


def spiral(
    views: int,
    *,
    turns: float = 2.0,
    elevation: Range = (-20.0, 20.0),
    radius: float = RADIUS,
    pivot: Point = ORIGIN,
    focal: float = FOCAL,
) -> Tensor:
    """From the first elevation to the second, up or down, at a steady pace on both angles.

    View 0 is in front; the last has gone `turns` times round towards +x.
    """
    _check_views("spiral", views)
    if not 0 < turns < math.inf:
        raise RendererError(f"spiral: turns is {turns}; give a number above 0")
    _check_elevation("spiral", *elevation)
    first, last = elevation
    pace = np.linspace(0, 1, views).tolist()
    places = [(360 * turns * p, first + (last - first) * p, radius) for p in pace]
    return _place("spiral", places, pivot, focal)


def random(
    views: int,
    *,
    seed: int = 0,
    yaw: Range = (-180.0, 180.0),
    elevation: Range = (-20.0, 20.0),
    radius: float | Range = RADIUS,
    pivot: Point = ORIGIN,
    focal: float = FOCAL,
) -> Tensor:
    """Yaw, elevation and radius drawn uniformly from their ranges, view by view.

    The same seed is the same rig, and a longer rig begins with the shorter one's cameras.
    """
    _check_views("random", views)
    if not 0 <= seed < 2**32:
        raise RendererError(f"random: seed is {seed}; give one in 0..4294967295")
    _check_yaw("random", *yaw)
    _check_elevation("random", *elevation)
    _check_order("random", "elevation", *elevation)
    near, far = radius if isinstance(radius, Sequence) else (radius, radius)
    _check_order("random", "radius", near, far)
    _check_lens("random", near, focal)
    low, high = np.transpose([yaw, elevation, (near, far)])  # [3]
    drawn = low + (high - low) * np.random.RandomState(seed).random_sample((views, 3))  # [V, 3]
    return _place("random", drawn.tolist(), pivot, focal)


def explicit(
    cameras: str | Path | Sequence[Any] | Mapping[str, Any],
    *,
    radius: float = RADIUS,
    pivot: Point = ORIGIN,
    focal: float = FOCAL,
) -> Tensor:
    """Cameras one by one, in the order given; a path is a JSON file of the same.

    A list, each of 25 numbers (a label) or {"azimuth": , "elevation": } in degrees, which may have
    a radius, a pivot and a focal of its own (else those given here); or a NeRF transforms.json.
    """
    where = "explicit"
    if isinstance(cameras, str | Path):
        where, cameras = str(cameras), read_json(cameras)
    if isinstance(cameras, Mapping):
        return transforms_labels(cameras, where)
    if not isinstance(cameras, Sequence) or not cameras:
        raise RendererError(f"{where}: must be a list of one camera or more, or a transforms.json")
    common = {"radius": radius, "pivot": pivot, "focal": focal}
    made = []
    for index, camera in enumerate(cameras):
        place = f"{where}: camera {index}"
        if isinstance(camera, Mapping):
            made.append(_read_camera(common | dict(camera), place))
        else:
            made.append(numbers(camera, (25,), place).float())
    labels = torch.stack(made)
    validate(labels, where)
    return labels


RIGS: dict[str, Callable[..., Tensor]] = {
    "orbit": orbit,
    "grid": grid,
    "spiral": spiral,
    "random": random,
    "explicit": explicit,
}


def make_rig(kind: str, **fields: Any) -> Tensor:
    """The rig that a manifest's section or `parse_rig` names: labels [V, 25].

    The fields are the keywords of the function called `kind`; a None is as good as not there.
    `explicit` takes `file` or `cameras`. Raises RendererError that names an unknown or missing
    field.
    """
    if kind not in RIGS:
        raise RendererError(f"rig: no kind {kind!r}; {suggest(kind, RIGS)}")
    fields = {name: value for name, value in fields.items() if value is not None}
    if kind == "explicit":
        if ("file" in fields) == ("cameras" in fields):
            raise RendererError("rig explicit: give exactly one of file and cameras")
        fields["cameras"] = fields.pop("file", None) or fields["cameras"]
    parameters = inspect.signature(RIGS[kind]).parameters
    for name in fields:
        if name not in parameters:
            raise RendererError(f"rig {kind}: no {name!r}; {suggest(name, parameters)}")
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty and name not in fields:
            raise RendererError(f"rig {kind}: {name} is missing")
    return RIGS[kind](**fields)


def _place(
    rig: str, places: Iterable[tuple[float, float, float]], pivot: Point, focal: float
) -> Tensor:
    """Labels of the cameras at (yaw, elevation, radius)."""
    # one at a time: the bits of a view must not depend on how many views there are
    labels = torch.cat(
        [
            _aim(rig, _radians(yaw), elevation, radius, pivot, focal)
            for yaw, elevation, radius in places
        ]
    )
    validate(labels, rig)
    return labels


def _aim(
    rig: str, azimuth: Tensor, elevation: float, radius: float, pivot: Point, focal: float
) -> Tensor:
    """Labels of cameras at azimuth [V] radians from the front; elevation in degrees."""
    _check_lens(rig, radius, focal)
    x, y, z = numbers(pivot, (3,), f"{rig}: pivot").tolist()
    pitch = math.pi / 2 * (1 - math.sin(math.radians(elevation)))
    cam2world = sample_pose(math.pi / 2 + azimuth, pitch, (x, y, z), radius)
    beside = cam2world[:, [0, 2], 3] - torch.tensor([x, z])
    if not (beside.norm(dim=1) > 1e-3 * radius).all():
        raise RendererError(
            f"{rig}: pivot {x:g}, {y:g}, {z:g}: a camera there, or straight above or below it, "
            "does not know which way is up; change pivot or radius"
        )
    return label(cam2world, intrinsics(focal))


def _read_camera(fields: dict[str, Any], where: str) -> Tensor:
    """One camera [25] of `explicit`, given by its angles."""
    known = ("azimuth", "elevation", "radius", "pivot", "focal")
    for name in fields:
        if name not in known:
            raise RendererError(f"{where}: no {name!r}; {suggest(name, known)}")
    pivot = fields.pop("pivot")
    given = {n: numbers(fields.get(n), (), f"{where}: {n}").item() for n in known if n != "pivot"}
    _check_elevation(where, given["elevation"])
    if not math.isfinite(given["azimuth"]):
        raise RendererError(f"{where}: azimuth is {given['azimuth']}; give degrees")
    return _aim(where, _radians(given.pop("azimuth")), pivot=pivot, **given)[0]


def _radians(yaw: float) -> Tensor:
    return torch.tensor([math.radians(yaw)], dtype=torch.float64)


def _spread(low: float, high: float, count: int, closed: bool = False) -> list[float]:
    if count == 1:
        return [(low + high) / 2]
    return np.linspace(low, high, count, endpoint=not closed).tolist()


def _check_views(rig: str, count: int, name: str = "views") -> None:
    if count < 1:
        raise RendererError(f"{rig}: {name} is {count}; ask for at least 1")


def _check_elevation(rig: str, *angles: float) -> None:
    for angle in angles:
        if not abs(angle) < 90:
            raise RendererError(f"{rig}: elevation is {angle}; keep it between -90 and 90 degrees")


def _check_yaw(rig: str, low: float, high: float) -> None:
    _check_order(rig, "yaw", low, high)
    if not (low >= -360 and high <= 360 and high - low <= 360):
        raise RendererError(
            f"{rig}: yaw is {low}..{high}; keep it within -360..360 degrees, once round at most"
        )


def _check_lens(rig: str, radius: float, focal: float) -> None:
    if not (0 < radius < math.inf and 0 < focal < math.inf):
        raise RendererError(f"{rig}: radius {radius}, focal {focal}; both must be positive")


def _check_order(rig: str, name: str, low: float, high: float) -> None:
    if not low <= high:
        raise RendererError(f"{rig}: {name} is {low}..{high}; give the lower number first")
