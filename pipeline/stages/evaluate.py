"""Evaluate: the stylized columns against the rendered truth, with baselines beside them."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from manifests.schemas import METRICS, SCHEMA_VERSION, VERSION_KEY
from pipeline.console import progress
from pipeline.errors import PipelineError
from pipeline.folders import RunFolder
from pipeline.images import resize, to_model
from pipeline.references import open_reference
from pipeline.shards.codecs import depth_from_levels
from pipeline.shards.files import write_whole
from pipeline.shards.reader import Column, read_clip, zip_columns

try:
    from stylize import metrics
except ModuleNotFoundError as error:
    if (error.name or "").split(".")[0] != "torchmetrics":
        raise
    raise PipelineError(
        "evaluate takes torchmetrics: pip install 'diffstyle360[metrics]'"
    ) from None


@dataclass
class Content:
    """One identity as rendered; S is the stylizer's image size, R that of the depth."""

    views: torch.Tensor  # [V, 3, S, S] in [-1, 1]
    mask: torch.Tensor  # [V, 1, S, S] in [0, 1]
    cameras: torch.Tensor  # [V, 25]
    depth: torch.Tensor | None  # [V, 1, R, R]
    background: float  # the distance that means that there is nothing


def evaluate_run(folder: RunFolder) -> int:
    """Write `metrics.parquet` (schema `manifests.schemas.METRICS`) and return its number of rows.

    Raises PipelineError where the manifest has no stylize section.
    """
    if folder.run.stylize is None:
        raise PipelineError("the run manifest has no stylize section: nothing to evaluate")
    torch.use_deterministic_algorithms(True)
    rows = []
    for reference in folder.run.stylize.references:
        rows += list(_measure_reference(folder, reference))
    metadata = {VERSION_KEY: str(SCHEMA_VERSION).encode()}
    table = pa.Table.from_pylist(rows, schema=METRICS.with_metadata(metadata))
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    write_whole(folder.metrics_path, sink.getvalue().to_pybytes())
    return len(rows)


def _measure_reference(folder: RunFolder, reference: str) -> Iterator[dict[str, Any]]:
    assert folder.run.stylize is not None
    shards = folder.run.shard_names(folder.run.stylize.split)
    style_name = folder.run.stylize.references[reference].style
    content_column = Column(folder.column("render"), shards)
    output_column = Column(folder.column(f"stylized-{reference}"), shards)
    columns = [content_column, output_column]
    truth_column = None
    if style_name:
        truth_column = Column(folder.column(f"style-{style_name}"), shards)
        columns.append(truth_column)
    style_of = open_reference(folder, reference, shards)
    views = range(folder.run.rig.count)
    keys = zip_columns(columns)
    for key in progress(keys, f"evaluate {reference}", len(keys)):
        images = read_clip(output_column, key, views)
        size = images.shape[1]
        content = _read_content(folder, content_column, key, size)
        style = to_model(style_of(key)[None], size)
        style_mask = metrics.estimate_foreground(style)
        truth = None
        if truth_column is not None:
            truth = to_model(read_clip(truth_column, key, views), size)
        methods = {
            "diffstyle360": to_model(images, size),
            "copy_content": content.views,
            "transfer_statistics": metrics.transfer_statistics(
                content.views, content.mask, style, style_mask
            ),
        }
        for method, output in methods.items():
            measured = _measure(output, truth, content, style, style_mask)
            # a measure without a value is null in Parquet
            values = {n: v if math.isfinite(v) else None for n, v in measured.items()}
            yield {"key": key, "reference": reference, "method": method, **values}


def _read_content(folder: RunFolder, column: Column, key: str, size: int) -> Content:
    outputs, views = folder.run.outputs, range(folder.run.rig.count)
    images = to_model(read_clip(column, key, views), size)
    if outputs.mask:
        mask = torch.from_numpy(read_clip(column, key, views, "mask")).float()[:, None] / 255
        mask = resize(mask, size)
    else:
        mask = metrics.estimate_foreground(images)
    meta = column.read(key, ["json"])["json"]
    cameras = torch.tensor([view["label"] for view in meta["views"]])
    if outputs.depth == "none":
        return Content(images, mask, cameras, None, math.inf)
    limits, stored = meta["depth"], read_clip(column, key, views, "depth")
    if outputs.depth == "png16":
        stored = depth_from_levels(stored, limits["start"], limits["end"])
    depth = torch.from_numpy(stored)[:, None]
    return Content(images, mask, cameras, depth, float(depth.new_tensor(limits["end"])))


def _measure(
    output: torch.Tensor,
    truth: torch.Tensor | None,
    content: Content,
    style: torch.Tensor,
    style_mask: torch.Tensor,
) -> dict[str, float]:
    measured = {"style_distance": metrics.style_distance(output, content.mask, style, style_mask)}
    if truth is not None:
        measured["psnr"] = metrics.masked_psnr(output, truth, content.mask)
        measured["ssim"] = metrics.masked_ssim(output, truth, content.mask)
        measured["sharpness"] = metrics.sharpness(output, truth, content.mask)
    if content.depth is not None:
        size = content.depth.shape[-1]
        geometry = (content.depth, content.cameras)
        seen = resize(output, size)
        background = content.background
        measured["seam"] = metrics.seam_ratio(seen, *geometry, background=background)
        if truth is not None:
            measured["consistency"] = metrics.geometric_consistency(
                seen, resize(truth, size), *geometry, background=background
            )
    return measured
