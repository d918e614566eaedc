"""Export: the samples of a column as folders of images with a NeRF transforms.json each."""

import json
from pathlib import Path
from typing import Any

import torch

from eg3d_renderer import cameras
from pipeline.console import progress
from pipeline.errors import PipelineError
from pipeline.shards.codecs import decode
from pipeline.shards.files import write_whole
from pipeline.shards.reader import Column


def export_column(column: Path, out: Path) -> int:
    """Write OUT/KEY/transforms.json and the members it names, for every sample; their number.

    The bytes of the images are those in the tar. Cameras are in Blender's axes, as NeRF tools read
    them. A sample whose transforms.json is there is left as it is. Raises ShardError for a column
    that cannot be read.
    """
    opened = Column(column)
    for key in progress(opened.keys, f"export {column.name}", len(opened)):
        folder = out / key
        if folder.parent != out or folder.name in ("", ".."):
            raise PipelineError(f"{column}: the key {key!r} leaves the folder; not exported")
        if (folder / "transforms.json").is_file():
            continue
        members = opened.read(key, decoded=False)
        meta = decode("json", members.pop("json"))
        if meta.get("cameras") == "unknown":
            raise PipelineError(f"{column}: {key}: its cameras are not known; not exported")
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in members.items():
            if "/" in name:
                raise PipelineError(f"{column}: {key}: {name!r} is in a folder; not exported")
            (folder / name).write_bytes(content)
        text = json.dumps(_describe(meta, list(members)), indent=1)
        write_whole(folder / "transforms.json", text.encode())
    return len(opened)


def _describe(meta: dict[str, Any], members: list[str]) -> dict[str, Any]:
    """transforms.json of a sample: one frame a view, with its depth and mask where there are."""
    labels = torch.tensor([view["label"] for view in meta["views"]])
    names = [
        next(m for m in members if m.startswith(f"{view['name']}.rgb.")) for view in meta["views"]
    ]
    described = cameras.to_transforms(labels, names, meta["resolution"])
    for view, frame in zip(meta["views"], described["frames"], strict=True):
        for kind, key in (("zdepth", "depth_file_path"), ("mask", "mask_path")):
            for member in members:
                if member.startswith(f"{view['name']}.{kind}."):
                    frame[key] = member
    if "z_depth" in meta:
        described["depth"] = meta["z_depth"]
    return described
