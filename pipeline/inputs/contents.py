"""What an input holds: its views as squares, its back view, its cameras.

The squares are centred, but for a portrait that is aligned: it goes where its landmarks say.
"""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.images import (
    MAX_BYTES,
    ImageFailure,
    Upright,
    decode_picture,
    decode_upright,
    read_file,
    warp,
)
from pipeline.inputs.alignment import Alignment, place_face
from pipeline.inputs.detection import Detector, choose_face, find_faces
from pipeline.inputs.landmarks import decode_landmarks
from pipeline.inputs.sources import Input, Source
from pipeline.shards import ShardError
from pipeline.shards.archive import read_range
from pipeline.shards.reader import Column, read_clip
from pipeline.shards.records import read_records
from pipeline.shards.samples import check_camera

_LANDMARKS_LIMIT = 1 << 20  # bytes of a portrait's landmarks

# The matrix from an image to its square, and what the records say of it.
Place = Callable[[Upright], tuple[np.ndarray, dict[str, Any]]]


@dataclass(frozen=True)
class Content:
    """The images of an identity: one view, or those once around."""

    views: np.ndarray  # [V, S, S, 3] uint8
    back: np.ndarray | None  # [S, S, 3] uint8, where it was given
    cameras: list[dict[str, Any]] | None  # name and camera of every view, where known
    files: list[dict[str, Any]]  # name and facts of each image


def load_content(one: Input, size: int, alignment: Alignment | None = None) -> Content:
    """Read an input; its images become `size` wide, those of a column of ours stay as they are.

    With an `alignment` a lone portrait is aligned, and its file's facts have, in place of the box,
    an "alignment": those of `place_face`, and the "source" of the landmarks. Its back view, of
    which no landmarks are known, and identities seen from around are centred squares as ever.

    Raises ImageFailure, whose kind and message are those of the row that fails.
    """
    if alignment is None:
        return _load(one, size, None)
    return _load(one, size, lambda upright: _place(one, upright, alignment, size))


def load_recorded(one: Input, size: int, files: Sequence[dict[str, Any]]) -> Content:
    """Read an input as it was when a sample was made of it, whose JSON says `files`.

    So a portrait that was aligned is aligned by the recorded matrix. Raises as `load_content`.
    """
    said = files[0].get("alignment") if files else None
    if said is None:
        return _load(one, size, None)
    matrix = np.array(said["matrix"]) * (size / said["size"])
    return _load(one, size, lambda _: (matrix, said))


def _load(one: Input, size: int, place: Place | None) -> Content:
    if one.problem:
        raise ImageFailure(*one.problem)
    if one.column is not None:
        return _load_sample(one)
    files: list[dict[str, Any]] = []
    if place is not None and len(one.views) == 1:
        views = _load_placed(one.views[0], size, place, files)[None]
    else:
        views = np.stack([_load_image(view, size, files) for view in one.views])
    back = None if one.back is None else _load_image(one.back, size, files)
    cameras = None if one.cameras is None else _load_cameras(one.cameras, len(views), files)
    return Content(views, back, cameras, files)


def read_source(source: Source) -> bytes:
    """The bytes of a file or of a tar's member.

    Raises ImageFailure; `changed` where a file is not as large as it was when it was listed, which
    may have been days ago.
    """
    if source.offset is None:
        data = read_file(source.path, source.name)
        if source.size not in (len(data), -1):
            told = f"{len(data)} bytes, {source.size} when it was listed; it was changed since"
            raise ImageFailure("changed", f"{source.name}: {told}")
        return data
    if source.size > MAX_BYTES:
        raise ImageFailure("too_large", f"{source.name}: more than {MAX_BYTES >> 20} MiB")
    try:
        file = os.open(source.path, os.O_RDONLY)
        try:
            data = read_range(file, source.offset, source.size)
        finally:
            os.close(file)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ImageFailure("unreadable", f"{source.name}: cannot be read: {reason}") from None
    if len(data) < source.size:
        raise ImageFailure("truncated", f"{source.name}: the tar is cut off in it")
    return data


def _load_image(source: Source, size: int, files: list[dict[str, Any]]) -> np.ndarray:
    """The image [S, S, 3] uint8; its name and facts are appended to `files`."""
    picture = decode_picture(read_source(source), source.name, size)
    files.append({"name": source.name} | picture.facts)
    return picture.pixels


def _load_placed(
    source: Source, size: int, place: Place, files: list[dict[str, Any]]
) -> np.ndarray:
    """The same, of a portrait whose place in the square is known."""
    upright = decode_upright(read_source(source), source.name)
    matrix, facts = place(upright)
    files.append({"name": source.name} | upright.facts | {"alignment": facts})
    return warp(upright.image, matrix, size)


def _place(
    one: Input, upright: Upright, alignment: Alignment, size: int
) -> tuple[np.ndarray, dict[str, Any]]:
    name = one.views[0].name
    points, source = _find_landmarks(one, upright, alignment.detector)
    matrix, facts = place_face(points, upright.image.size, alignment, size, name)
    return matrix, {"source": source} | facts


def _find_landmarks(
    one: Input, upright: Upright, detector: Detector | None
) -> tuple[np.ndarray, dict[str, Any]]:
    """A portrait's five points [5, 2], and where they are from: a table, a file, the detector.

    Raises ImageFailure: bad_landmarks, no_landmarks, no_face, and as `read_source`.
    """
    name, (width, height) = one.views[0].name, upright.image.size
    if one.points is not None:
        return np.array(one.points), {"kind": "table"}
    if one.landmarks is not None:
        return _read_landmarks(one.landmarks)
    if detector is None:
        told = "no NAME.landmarks.json, none in a table, and no detector to find any"
        raise ImageFailure("no_landmarks", f"{name}: no landmarks to align it by: {told}")
    faces = find_faces(detector, upright.image)
    if not faces:
        raise ImageFailure("no_face", f"{name}: {detector.name} finds no face in it")
    face = choose_face(faces, width, height)
    return face.points, {
        "kind": "detector",
        "name": detector.name,
        "sha256": detector.sha256,
        "score": face.score,
        "faces": len(faces),
    }


def _read_landmarks(source: Source) -> tuple[np.ndarray, dict[str, Any]]:
    try:
        if source.size > _LANDMARKS_LIMIT:
            raise ValueError(f"more than {_LANDMARKS_LIMIT >> 20} MiB")
        data = read_source(source)
        points = np.array(decode_landmarks(data))
    except ValueError as error:
        raise ImageFailure("bad_landmarks", f"{source.name}: {error}") from None
    sha256 = hashlib.sha256(data).hexdigest()
    return points, {"kind": "sidecar", "name": source.name, "sha256": sha256}


def _load_sample(one: Input) -> Content:
    """A sample of a column of ours, its hash compared."""
    assert one.column is not None
    column = Column(one.column, [one.shard])
    try:
        rows, _ = read_records(one.column / f"{one.shard}.parquet", ["key", "sha256"])
        now = dict(zip(*rows.to_pydict().values(), strict=True))
        if now.get(one.key, one.sha256) != one.sha256:
            told = "not the sample that was listed; its shard was made anew since"
            raise ImageFailure("changed", f"{one.origin}: {told}")
        views = read_clip(column, one.key, range(one.count), check=True)
        meta = column.read(one.key, ["json"])["json"]
    except (ShardError, ValueError) as error:  # the latter of views of several sizes
        raise ImageFailure("content_unreadable", f"{one.origin}: {error}") from None
    if views.ndim != 4:
        raise ImageFailure("content_unreadable", f"{one.origin}: its views have no colours")
    files = [{"name": one.origin, "sha256": one.sha256}]
    return Content(views, None, read_cameras(meta, one.count), files)


def _load_cameras(
    source: Source, count: int, files: list[dict[str, Any]]
) -> list[dict[str, Any]] | None:
    """The cameras that a sample's JSON says, if they are of `count` views that were not cropped."""
    if any(file["size"] != file["box"][2:] or file["orientation"] != 1 for file in files):
        return None
    try:
        return read_cameras(json.loads(read_source(source)), count)
    except (ValueError, RecursionError, ImageFailure):  # it was not said that there are any
        return None


def read_cameras(meta: Any, count: int) -> list[dict[str, Any]] | None:
    """Name and camera of `count` views as a sample's JSON has them; None where it has not."""
    views = meta.get("views") if isinstance(meta, dict) else None
    if not isinstance(views, list) or len(views) != count:
        return None
    if any(not isinstance(view, dict) or check_camera(view) for view in views):
        return None
    fields = ("label", "cam2world", "intrinsics")
    return [
        {"name": f"view_{index:02d}"} | {name: view[name] for name in fields}
        for index, view in enumerate(views)
    ]
