"""The rig section of a run manifest: the cameras that every identity is seen from.

Each kind is a function of `eg3d_renderer.cameras` and its fields are that function's keywords, so
`make_rig(**rig.model_dump())` makes it. Angles are degrees, yaw 0 is the front of the face.
"""

import json
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from pydantic import BeforeValidator, Discriminator, Field, Tag

from manifests.sections import FilePath, Section

FEWEST, MOST = 1, 720  # views


def _numbers(given: Any, count: int, wanted: str) -> tuple[float, ...]:
    if not (
        isinstance(given, list | tuple)
        and len(given) == count
        and all(type(number) in (int, float) and abs(number) < 1e30 for number in given)
    ):
        raise ValueError(f"must be {wanted}, not {json.dumps(given, default=str)[:60]}")
    return tuple(map(float, given))


def _check_yaw(given: Any) -> tuple[float, ...]:
    low, high = _numbers(given, 2, "two numbers of degrees")
    if not (-360 <= low <= high <= 360 and high - low <= 360):
        raise ValueError(
            f"{low:g} to {high:g}: the lower first, within -360..360, one turn at most"
        )
    return low, high


def _check_climb(given: Any) -> tuple[float, ...]:
    first, last = _numbers(given, 2, "two numbers of degrees")
    if not (abs(first) < 90 and abs(last) < 90):
        raise ValueError(f"{first:g} to {last:g}: keep between -90 and 90")
    return first, last


def _check_elevation(given: Any) -> tuple[float, ...]:
    low, high = _check_climb(given)
    if low > high:
        raise ValueError(f"{low:g} to {high:g}: give the lower first")
    return low, high


def _check_radius(given: Any) -> float | tuple[float, ...]:
    one = not isinstance(given, list | tuple)
    near, far = _numbers(2 * [given] if one else given, 2, "a number, or two to draw between")
    if not 0 < near <= far:
        raise ValueError(f"{given}: must be above 0, the smaller first")
    return near if one else (near, far)


def _check_count(count: int) -> None:
    if not FEWEST <= count <= MOST:
        raise ValueError(f"a rig has {FEWEST} to {MOST} views, not {count}")


def _three(given: Any) -> tuple[float, ...]:
    return _numbers(given, 3, "three numbers")


def _label(given: Any) -> tuple[float, ...]:
    return _numbers(given, 25, "25 numbers")


Positive = Annotated[float, Field(gt=0)]
Views = Annotated[int, Field(ge=FEWEST, le=MOST)]
Point = Annotated[tuple[float, float, float], BeforeValidator(_three)]
Label = Annotated[tuple[float, ...], BeforeValidator(_label)]
Yaw = Annotated[tuple[float, float], BeforeValidator(_check_yaw)]
Climb = Annotated[tuple[float, float], BeforeValidator(_check_climb)]
Elevation = Annotated[tuple[float, float], BeforeValidator(_check_elevation)]
Radius = Annotated[float | tuple[float, float], BeforeValidator(_check_radius)]


class _Rig(Section):
    """None is the generator's own: what its model was made with."""

    kind: str
    radius: Positive | None = None  # of the cameras' sphere around the origin, in world units
    pivot: Point | None = None  # what all cameras look at
    focal: Positive | None = None  # in image widths


class _Views(_Rig):
    """A rig of as many views as it says."""

    views: Views

    @property
    def count(self) -> int:
        return self.views


class Orbit(_Views):
    """A full circle: view 0 frontal, view V/2 the back. The only rig that is closed."""

    kind: Literal["orbit"] = "orbit"
    elevation: Annotated[float, Field(gt=-90, lt=90)] = 0.0


class Grid(_Rig):
    """Row by row, the highest elevation first, in a row the lowest yaw."""

    kind: Literal["grid"] = "grid"
    columns: Annotated[int, Field(ge=1)]
    rows: Annotated[int, Field(ge=1)]
    yaw: Yaw = (-45.0, 45.0)
    elevation: Elevation = (-20.0, 20.0)

    @pydantic.model_validator(mode="after")
    def _some_views(self) -> "Grid":
        _check_count(self.count)
        return self

    @property
    def count(self) -> int:
        return self.columns * self.rows


class Spiral(_Views):
    """From the front, `turns` times round, from the first elevation to the second."""

    kind: Literal["spiral"] = "spiral"
    turns: Positive = 2.0
    elevation: Climb = (-20.0, 20.0)


class Random(_Views):
    """Drawn uniformly, the same cameras for every identity."""

    kind: Literal["random"] = "random"
    radius: Radius | None = None  # type: ignore[assignment]  # one, or two to draw between
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    yaw: Yaw = (-180.0, 180.0)
    elevation: Elevation = (-20.0, 20.0)


class Explicit(_Rig):
    """One by one: a JSON file as `eg3d_renderer.cameras.explicit` reads it, or labels here."""

    kind: Literal["explicit"] = "explicit"
    file: FilePath = None
    cameras: Annotated[tuple[Label, ...] | None, Field(strict=False)] = None

    @pydantic.field_validator("file")
    @classmethod
    def _find(cls, file: Path | None, info: pydantic.ValidationInfo) -> Path | None:
        if file is not None:
            file = Path((info.context or {}).get("folder", ""), file)
            _count_cameras(file)  # or say what is wrong with it
        return file

    @pydantic.model_validator(mode="after")
    def _some_views(self) -> "Explicit":
        _check_count(self.count)
        return self

    @cached_property
    def count(self) -> int:
        match self.file, self.cameras:
            case None, tuple(cameras):
                return len(cameras)
            case Path() as file, None:
                return _count_cameras(file)
        raise ValueError("give exactly one of 'file' (a JSON file) and 'cameras' (25 numbers each)")


def _count_cameras(file: Path) -> int:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{file}: cannot read it: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise ValueError(f"{file}: not a JSON file of cameras") from None
    cameras = content.get("frames") if isinstance(content, dict) else content
    if not isinstance(cameras, list):
        raise ValueError(f"{file}: neither a list of cameras nor a NeRF transforms.json")
    return len(cameras)


def _kind_of(rig: Any) -> str:
    return str(rig.get("kind", "orbit") if isinstance(rig, dict) else getattr(rig, "kind", "orbit"))


Rig = Annotated[
    Annotated[Orbit, Tag("orbit")]
    | Annotated[Grid, Tag("grid")]
    | Annotated[Spiral, Tag("spiral")]
    | Annotated[Random, Tag("random")]
    | Annotated[Explicit, Tag("explicit")],
    Discriminator(_kind_of),
]
