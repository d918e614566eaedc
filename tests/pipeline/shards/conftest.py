"""A small column to work on: identities of two views, 8 x 8 pixels, orbit cameras."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.shards import codecs
from pipeline.shards.archive import Member, end_archive, pack_header, pad
from pipeline.shards.indexes import encode_idx, index_sample
from pipeline.shards.records import Commit, encode_records
from pipeline.shards.writer import ShardWriter

Edit = Callable[[dict[str, Any]], None]


def make_view(index: int, views: int) -> dict[str, Any]:
    turn = 2 * np.pi * index / views
    centre = np.array([2.7 * np.sin(turn), 0, 2.7 * np.cos(turn)])
    forward = -centre / np.linalg.norm(centre)
    down = np.array([0.0, -1.0, 0.0])
    pose = np.eye(4)
    pose[:3] = np.stack([np.cross(down, forward), down, forward, centre], axis=1)
    intrinsics = np.array([[4.2634, 0, 0.5], [0, 4.2634, 0.5], [0, 0, 1]])
    label = np.concatenate([pose.ravel(), intrinsics.ravel()])
    return {
        "name": f"view_{index:02d}",
        "label": label,
        "cam2world": pose,
        "intrinsics": intrinsics,
    }


def make_sample(
    key: str, seed: int, views: int = 2, depth: str = "png16", edit: Edit | None = None
) -> dict[str, bytes]:
    """Members of a sample as the render stage writes them; `edit` changes its JSON before."""
    random = np.random.RandomState(seed)
    members = {}
    for i in range(views):
        image = random.randint(0, 256, (8, 8, 3)).astype(np.uint8)
        distance = random.uniform(2.3, 3.3, (4, 4)).astype(np.float32)
        mask = random.uniform(0, 1, (4, 4)).astype(np.float32)
        members[f"view_{i:02d}.rgb.png"] = codecs.encode_rgb(image, "png")
        name = f"view_{i:02d}.depth.{codecs.EXTENSIONS[depth]}"
        members[name] = codecs.encode_depth(distance, 2.25, 3.3, depth)
        members[f"view_{i:02d}.mask.png"] = codecs.encode_mask(mask)
    meta: dict[str, Any] = {
        "key": key,
        "seed": seed,
        "split": "train",
        "resolution": 8,
        "generator": {"source": "demo", "digest": "0" * 64, "style": None},
        "depth": {"start": 2.25, "end": 3.3, "levels": 65535 if depth == "png16" else None},
        "views": [make_view(i, views) for i in range(views)],
    }
    if edit is not None:
        edit(meta)
    members["json"] = codecs.encode_json(meta)
    return members


def write_shard(folder: Path, name: str, seeds: range, failed: tuple[int, ...] = ()) -> None:
    with ShardWriter(folder, name, {"generator": "demo"}) as shard:
        for seed in seeds:
            key = f"train-{seed:08d}"
            if seed in failed:
                shard.fail(key, "NonFinite", "image: not finite", seed=seed, split="train")
            else:
                shard.add(key, make_sample(key, seed), seed=seed, split="train", seconds=0.5)


def forge_shard(
    folder: Path,
    name: str,
    samples: list[tuple[str, dict[str, bytes]]],
    edit_tar: Callable[[bytearray], bytes | None] | None = None,
    edit_row: Callable[[int, dict[str, Any]], None] | None = None,
    edit_commit: Callable[[dict[str, Any]], None] | None = None,
) -> None:
    """A shard whose hashes fit but whose content need not be right: what the writer refuses.

    The edits are applied before hashing: of the tar (same length), of a row, of the commit record.
    """
    tar, lines, places = bytearray(), [], []
    for key, members in samples:
        offset, index = len(tar), []
        for suffix, data in members.items():
            tar += pack_header(key, suffix, len(data))
            index.append(Member(suffix, len(tar) - offset, len(data)))
            tar += data + pad(len(data))
        lines.append(index_sample(key, offset, index))
        places.append((key, offset, len(tar) - offset, len(members)))
    tar += end_archive(len(tar))
    content = bytes((edit_tar(tar) if edit_tar else None) or tar)
    rows = []
    for i, (key, offset, size, count) in enumerate(places):
        row = {"key": key, "split": "train", "seed": int(key[-8:]), "status": "ok", "message": ""}
        digest = hashlib.sha256(content[offset : offset + size]).hexdigest()
        row |= {"offset": offset, "size": size, "sha256": digest, "members": count, "seconds": 0.5}
        if edit_row is not None:
            edit_row(i, row)
        rows.append(row)
    commit = {
        "samples": len(rows),
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "md5": hashlib.md5(content).hexdigest(),
        "provenance": {"generator": "demo"},
        "pyarrow": pa.__version__,
    }
    if edit_commit is not None:
        edit_commit(commit)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.tar").write_bytes(content)
    (folder / f"{name}.idx").write_bytes(encode_idx(lines))
    (folder / f"{name}.parquet").write_bytes(encode_records(rows, Commit(**commit)))


@pytest.fixture(name="make_sample")
def _make_sample() -> Callable[..., dict[str, bytes]]:
    return make_sample


@pytest.fixture(name="write_shard")
def _write_shard() -> Callable[..., None]:
    return write_shard


@pytest.fixture(name="forge_shard")
def _forge_shard() -> Callable[..., None]:
    return forge_shard


@pytest.fixture
def column(tmp_path: Path) -> Path:
    """Two shards, five samples and one failure."""
    write_shard(tmp_path / "render", "train-00000", range(3), failed=(1,))
    write_shard(tmp_path / "render", "train-00001", range(3, 6))
    return tmp_path / "render"
