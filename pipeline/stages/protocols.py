"""Evaluation without a run: columns that `stylize --content` wrote, against that content.

There is no truth and no depth here, so only what takes neither is measured. FFHQ stands for
portraits, whose one view is compared with the front of the output; RenderMe-360 for identities seen
from around, compared view by view.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from pipeline.console import progress
from pipeline.errors import PipelineError
from pipeline.folders import REQUEST
from pipeline.images import decode_picture, read_file, to_model
from pipeline.inputs.contents import load_recorded
from pipeline.inputs.listing import is_folder_of_images, list_content
from pipeline.inputs.sources import Input
from pipeline.judges import Judges, Pictures
from pipeline.shards.reader import Column, read_clip
from pipeline.stages.averages import Means, average
from pipeline.stages.evaluate import write_metrics
from pipeline.stages.measures import OURS, Label, Subject, baselines, measure
from pipeline.stages.rendered import yaws
from stylize import metrics

PROTOCOLS = ("ffhq", "renderme360")
CAMERAS = "cameras.json"  # in an identity's folder: a list of 25-number labels, one a view


@dataclass(frozen=True)
class Folders:
    """What is to be evaluated, as the command line names it."""

    protocol: str
    content: str
    stylized: tuple[Path, ...]  # columns, each of one or several style images
    styles: tuple[Path, ...] = ()  # none: those that the columns were made with, where they lie
    masks: str | None = None  # laid out as the content; none: what is not white is the head


@dataclass
class _Opened:
    folders: Folders
    content: dict[str, Input]  # by key, and by name
    masks: dict[str, Input]
    styles: dict[str, np.ndarray] = field(default_factory=dict)  # by the sha256 of the file


def evaluate_folders(folders: Folders, path: Path, judges: Judges | None = None) -> Means:
    """Write the metrics of all columns to `path` (schema `manifests.schemas.METRICS`) and return
    their means.

    Raises PipelineError where a sample's content or style image is not given, or the content is not
    that of the protocol.
    """
    judges = judges or Judges()
    opened = _Opened(
        folders,
        content=_list_by_name(folders.content, folders.protocol),
        masks=_list_by_name(folders.masks, folders.protocol) if folders.masks else {},
        styles=dict(_read_styles(folders)),
    )
    columns = {_name(column): _open_column(column) for column in folders.stylized}
    if len(columns) < len(folders.stylized):
        raise PipelineError("--stylized: two columns have the same name")
    rows: list[dict[str, Any]] = []
    for name, column in columns.items():
        for key in progress(column.keys, f"evaluate {name}", len(column)):
            rows += _measure_sample(opened, column, key, name, judges)
    write_metrics(path, rows)
    return average(pq.read_table(path), [(name, {name: OURS}) for name in columns])


def _measure_sample(
    opened: _Opened, column: Column, key: str, name: str, judges: Judges
) -> Iterator[dict[str, Any]]:
    meta = column.read(key, ["json"])["json"]
    count = len(meta["views"])
    images = read_clip(column, key, range(count), check=True)
    output = to_model(images, images.shape[1])
    subject = _open_subject(opened, f"{column.folder.name}/{key}", meta, output.shape[-1])
    methods: dict[Label, Pictures] = {(m, None): p for m, p in baselines(subject).items()}
    methods[OURS, name] = Pictures(output, metrics.estimate_foreground(output))
    for (method, _), rows in measure(subject, methods, judges).items():
        names = {"key": key, "reference": name, "method": method}
        yield from (names | row for row in rows)


def _open_subject(opened: _Opened, where: str, meta: dict[str, Any], size: int) -> Subject:
    folders, count = opened.folders, len(meta["views"])
    if "style" not in meta:
        raise PipelineError(f"{where}: of a run; evaluate takes the manifest of that")
    one = opened.content.get(meta["content"]) or opened.content.get(meta["name"])
    if one is None:
        kind = ", every image of which is a portrait" if folders.protocol == "ffhq" else ""
        raise PipelineError(f"{where}: its content is not in {folders.content}{kind}")
    found = load_recorded(one, size, meta["files"])
    views, expected = found.views, 1 if folders.protocol == "ffhq" else count
    if len(views) != expected:
        raise PipelineError(
            f"{one.origin}: {len(views)} views, but {folders.protocol} compares "
            + ("portraits: one image each" if expected == 1 else f"{count}, as many as the output")
        )
    if [file["sha256"] for file in found.files] != [file["sha256"] for file in meta["files"]]:
        raise PipelineError(f"{one.origin}: changed since it was stylized, or another of this name")
    given = meta["style"]["sha256"]
    if given not in opened.styles:
        raise PipelineError(f"{where}: its style image was not given; name the file with --style")
    style = to_model(opened.styles[given][None], size)
    content = to_model(views, size)
    return Subject(
        yaws=_find_yaws(one, meta["views"], folders.content),
        content=Pictures(content, _read_mask(opened, one, content, meta["files"])),
        at=list(range(expected)),
        style=Pictures(style, metrics.estimate_foreground(style)),
    )


def _read_mask(
    opened: _Opened, one: Input, content: torch.Tensor, files: list[dict[str, Any]]
) -> torch.Tensor:
    """The given mask [N, 1, S, S], its first channel, placed as the content; else non-white."""
    if opened.folders.masks is None:
        return metrics.estimate_foreground(content)
    mask = opened.masks.get(one.key)
    if mask is None:
        raise PipelineError(f"{one.origin}: its mask is not in {opened.folders.masks}")
    views = load_recorded(mask, content.shape[-1], files).views
    if len(views) != len(content):
        raise PipelineError(f"{mask.origin}: {len(views)} masks of {len(content)} views")
    return torch.from_numpy(views[:, None, :, :, 0]).float() / 255


def _find_yaws(one: Input, views: list[dict[str, Any]], content: str) -> torch.Tensor:
    """Of the views [V]: from the output's cameras, else the identity's cameras.json, else an even
    circle from the front."""
    path = Path(content) / one.origin / CAMERAS
    if all("label" in view for view in views):
        labels = [view["label"] for view in views]
    elif path.is_file():
        labels = _read_labels(path, len(views))
    else:
        circle = torch.arange(len(views), dtype=torch.float64) * (360 / len(views))
        return (circle + 180) % 360 - 180
    return yaws(torch.tensor(labels))


def _read_labels(path: Path, count: int) -> list[list[float]]:
    try:
        labels = json.loads(read_file(path, str(path)))
        array = np.asarray(labels, dtype=np.float64)
    except (ValueError, TypeError, RecursionError):
        raise PipelineError(f"{path}: not JSON of camera labels") from None
    if array.shape != (count, 25) or not np.isfinite(array).all():
        raise PipelineError(f"{path}: wants {count} labels of 25 finite numbers, one a view")
    return array.tolist()


def _read_styles(folders: Folders) -> Iterator[tuple[str, np.ndarray]]:
    """The style images given, else those that the columns' request names, by their sha256."""
    paths = list(folders.styles)
    if not paths:
        requests = {column.parent / REQUEST for column in folders.stylized}
        for request in sorted(path for path in requests if path.is_file()):
            said = json.loads(request.read_text())
            paths += [Path(path) for path in said.get("styles", {})]
    for path in paths:
        picture = decode_picture(read_file(path, str(path)), str(path))
        yield picture.facts["sha256"], picture.pixels


def _list_by_name(content: str, protocol: str) -> dict[str, Input]:
    """The inputs by key, and by name; the protocol `ffhq` takes every image below a folder."""
    inputs = list_content(content, protocol == "ffhq" and is_folder_of_images(content))
    return {one.name: one for one in inputs} | {one.key: one for one in inputs}


def _open_column(folder: Path) -> Column:
    if not any(folder.glob("*.tar")):
        raise PipelineError(f"{folder}: no shards there; --stylized takes a column: stylized-NAME")
    column = Column(folder)
    if not len(column):
        raise PipelineError(f"{folder}: no samples to evaluate: all failed, or none is made yet")
    return column


def _name(column: Path) -> str:
    return column.resolve().name.removeprefix("stylized-")
