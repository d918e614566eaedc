"""Quality: every view of a column decoded and measured, a Parquet a shard. No torch.

COLUMN/quality/SHARD.parquet has one row a view, so that the folder reads as one table; it lies in a
folder of its own because a Parquet beside the tars is the record of a shard.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from manifests.schemas import SCHEMA_VERSION, VERSION_KEY
from pipeline.console import progress
from pipeline.datasets.columns import list_shards
from pipeline.datasets.near import spectrum_of
from pipeline.datasets.workers import map_tasks
from pipeline.shards import ShardError
from pipeline.shards.codecs import decode
from pipeline.shards.files import explain, write_whole
from pipeline.shards.reader import Column
from pipeline.shards.records import read_commit, read_records

FOLDER = "quality"
WHITE = 253  # the head, where there is no mask, is what has a channel below
LUMA = 0.299, 0.587, 0.114  # of red, green and blue
DARK, BRIGHT = 2, 253  # all channels at most, or at least: clipped

QUALITY = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("view", pa.int16()),  # null in the one row of a sample that cannot be taken apart
        pa.field("front", pa.bool_(), nullable=False),  # the view nearest to the front
        pa.field("error", pa.string(), nullable=False),  # of a member that does not decode, or ""
        pa.field("coverage", pa.float32()),  # share of the image that is head
        # of the head alone; null where there is none, or no image
        pa.field("luma", pa.float32()),  # mean, 0 black to 1 white
        pa.field("dark", pa.float32()),  # share that is clipped at black
        pa.field("bright", pa.float32()),  # share that is clipped at white; 0 without a mask
        pa.field("sharpness", pa.float32()),  # variance of the Laplacian, squared levels of 255
        pa.field("depth", pa.string()),  # "ok", "constant" or "non_finite"; null: no depth
        pa.field("spectrum", pa.list_(pa.float32(), 64)),  # of the front, see near.spectrum_of
    ]
)
_TAR_KEY = b"diffstyle360.tar"  # sha256 of the tar that was looked at


def examine(columns: Sequence[Path], workers: int = 1) -> int:
    """Decode and measure all shards that were not, `workers` at a time in processes; their number.

    A sample that cannot be read is a row with its error. Raises ShardError for a record that cannot
    be read, and where the disk refuses; what is finished stays.
    """
    tasks = []
    for column in columns:
        with explain(column / FOLDER):
            (column / FOLDER).mkdir(exist_ok=True)
        tasks += [(column, name) for name in list_shards(column) if not is_examined(column, name)]
    for _ in progress(map_tasks(examine_shard, tasks, workers), "look at shards", len(tasks)):
        pass
    return len(tasks)


def is_examined(column: Path, shard: str) -> bool:
    """Whether a shard's quality is there, of the tar that is there now."""
    try:
        metadata = pq.read_metadata(quality_path(column, shard)).metadata or {}
    except (OSError, ValueError, pa.ArrowException):
        return False
    tar = read_commit(column / f"{shard}.parquet").sha256
    return metadata.get(_TAR_KEY) == tar.encode() and _version(metadata) == str(SCHEMA_VERSION)


def quality_path(column: Path, shard: str) -> Path:
    return column / FOLDER / f"{shard}.parquet"


def examine_shard(column: Path, shard: str) -> None:
    """Write the quality of one shard: a row a view (see QUALITY), of its ok samples."""
    opened = Column(column, [shard])
    listed = read_records(column / f"{shard}.parquet", ["key", "split"])[0].to_pylist()
    splits = {row["key"]: row["split"] for row in listed}
    rows = [row | {"split": splits[k]} for k in opened.keys for row in _examine(opened, k)]
    metadata = {
        VERSION_KEY: str(SCHEMA_VERSION).encode(),
        _TAR_KEY: read_commit(column / f"{shard}.parquet").sha256.encode(),
    }
    table = pa.Table.from_pylist(rows, schema=QUALITY.with_metadata(metadata))
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    write_whole(quality_path(column, shard), sink.getvalue().to_pybytes())


def measure(image: np.ndarray, head: np.ndarray) -> dict[str, float]:
    """Exposure and sharpness of a head: uint8 [H, W, 3], bool [H, W] -> measures of QUALITY.

    Nothing where there is no head; no sharpness where no pixel of it has all four neighbours.
    """
    if not head.any():
        return {}
    luma = image.astype(np.float32) @ np.array(LUMA, np.float32)  # [H, W], 0..255
    found = {
        "luma": float(luma[head].mean()) / 255,
        "dark": float((image[head] <= DARK).all(1).mean()),
        "bright": float((image[head] >= BRIGHT).all(1).mean()),
    }
    inner = luma[1:-1, 1:-1]
    edges = luma[:-2, 1:-1] + luma[2:, 1:-1] + luma[1:-1, :-2] + luma[1:-1, 2:] - 4 * inner
    inside = edges[head[1:-1, 1:-1]]
    return found | ({"sharpness": float(inside.var())} if inside.size else {})


def describe_depth(depth: np.ndarray) -> str:
    """``ok``, ``non_finite``, or ``constant`` where all pixels are equally far."""
    if depth.dtype.kind == "f" and not np.isfinite(depth).all():
        return "non_finite"
    return "constant" if depth.min() == depth.max() else "ok"


def _examine(column: Column, key: str) -> Iterator[dict[str, Any]]:
    empty: dict[str, Any] = dict.fromkeys(QUALITY.names) | {"key": key, "front": False, "error": ""}
    try:
        members = column.read(key, decoded=False)
    except ShardError as problem:
        yield empty | {"error": str(problem)}
        return
    views: dict[int, dict[str, bytes]] = {}
    for suffix, data in members.items():
        view, _, rest = suffix.partition(".")
        if view.startswith("view_") and view[5:].isdigit():
            views.setdefault(int(view[5:]), {})[rest] = data
    front, damage = 0, ""
    try:
        front = find_front(decode("json", members.get("json", b"")))
    except ShardError as error:
        damage = str(error)
    for number, parts in views.items():
        found = _examine_view(parts, number == front, damage)
        yield empty | {"view": number, "front": number == front} | found
    if not views:
        yield empty | {"error": damage or "no views"}


def find_front(meta: Any) -> int:
    """The number of the view whose camera stands nearest to the front; 0 where none is known."""
    views = meta.get("views") if isinstance(meta, dict) else None
    turns = []
    for view in views if isinstance(views, list) else ():
        try:
            pose = view["cam2world"]
            turns.append(abs(math.atan2(pose[0][3], pose[2][3])))
        except (KeyError, TypeError, IndexError):
            return 0
    return int(np.argmin(np.round(turns, 5))) if turns else 0


def _examine_view(parts: dict[str, bytes], front: bool, damage: str) -> dict[str, Any]:
    """The measures of one view; `parts` are its members by kind and extension ("rgb.png")."""
    values: dict[str, np.ndarray] = {}
    for name, data in parts.items():
        try:
            values[name.partition(".")[0]] = decode(name, data)
        except ShardError as error:
            damage = damage or str(error)
    found: dict[str, Any] = {"error": damage}
    image, mask = values.get("rgb"), values.get("mask")
    depth = values.get("depth", values.get("zdepth"))
    if depth is not None and depth.size:
        found["depth"] = describe_depth(depth)
    if mask is not None:
        found["coverage"] = float(mask.mean()) / 255
    if image is None:
        return found
    if mask is None:
        head = np.asarray((image < WHITE).any(2))
        found["coverage"] = float(head.mean())
    else:
        size = image.shape[1], image.shape[0]
        resized = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
        head = np.asarray(resized >= 128)
    found |= measure(image, head)
    if front:
        found["spectrum"] = spectrum_of(image)
    return found


def _version(metadata: dict[bytes, bytes]) -> str:
    return metadata.get(VERSION_KEY, b"").decode("ascii", "replace")
