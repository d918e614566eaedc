"""Render: the identities of a shard, all around, through the generator of one column."""

import time
from functools import partial
from typing import Any

import torch

import eg3d_renderer as er
from eg3d_renderer.generators import Generator
from manifests import RunManifest
from pipeline.devices import describe_device
from pipeline.errors import PipelineError
from pipeline.folders import RunFolder
from pipeline.shards import codecs
from pipeline.stages.samples import Failure, Made, write_samples

CONVENTION = "OpenCV: x right, y down, z forward; cam2world; intrinsics over image size"
DEPTH_MEANING = "distance from the camera centre along the unit ray, in world units; end: nothing"


def render_shard(folder: RunFolder, column: str, shard: str, device: torch.device) -> None:
    """Write one shard of the column ``render`` or ``style-NAME``.

    A sample's bytes depend on the run manifest and on its own row of the plan alone.
    """
    run = folder.run
    source = column_source(run, column)
    generator = er.load_generator(source, device)
    labels = rig_labels(run).to(device)  # [V, 25]
    rows = folder.rows(shard)
    provenance = describe_device(device) | {
        "column": column,
        "run": run.digest(),
        "generator": {"source": source, "digest": generator.digest},
        "outputs": run.outputs.model_dump(),
        "rig": run.rig.model_dump(),
    }
    description = _describe(run, source, generator, labels)
    made = (_render_identity(run, column, generator, labels, description, row) for row in rows)
    write_samples(folder.column(column), shard, provenance, made, len(rows))


def column_source(run: RunManifest, column: str) -> str:
    """The generator source of a column. Raises PipelineError for one that is not rendered."""
    if column == "render":
        return run.generator.source
    style = run.styles.get(column.removeprefix("style-"))
    if style is None or not column.startswith("style-"):
        raise PipelineError(f"no column {column!r} to render; there: {', '.join(run.columns)}")
    return style.source


def rig_labels(run: RunManifest) -> torch.Tensor:
    """The camera labels [V, 25] of the run's rig."""
    return er.cameras.orbit(**run.rig.model_dump(exclude={"kind"}))


def render_seed(
    run: RunManifest, generator: Generator, labels: torch.Tensor, seed: int, instance_seed: int
) -> dict[str, torch.Tensor]:
    """One latent from every camera of `labels` [V, 25]; see `Generator.render` for what it gives.

    Raises FloatingPointError where a view holds a NaN or an infinity.
    """
    z = er.latents([seed], generator.z_dim)
    instance = er.latents([instance_seed], generator.z_dim)
    z[:, generator.instance] = instance[:, generator.instance]
    psi = run.generator.truncation_psi
    ws = generator.mapping(z.to(labels.device), labels[:1], truncation_psi=psi)
    out = generator.render(generator.planes(ws), ws, labels, run.outputs.resolution)
    for name, tensor in out.items():
        finite = torch.isfinite(tensor).flatten(1).all(1)  # [V]
        if not finite.all():
            view = int((~finite).nonzero()[0])
            raise FloatingPointError(f"seed {seed}: {name} of view {view} is not finite")
    return out


def describe_views(labels: torch.Tensor) -> list[dict[str, Any]]:
    """Name and camera of every view: the 25-number label, and the same as two matrices."""
    cam2world, intrinsics = er.cameras.split(labels.cpu())
    return [
        {
            "name": f"view_{index:02d}",
            "label": label.tolist(),
            "cam2world": cam2world[index].tolist(),
            "intrinsics": intrinsics[index].tolist(),
        }
        for index, label in enumerate(labels.cpu())
    ]


def _render_identity(
    run: RunManifest,
    column: str,
    generator: Generator,
    labels: torch.Tensor,
    description: dict[str, Any],
    row: dict[str, Any],
) -> Made | Failure:
    began = time.perf_counter()
    style = run.styles.get(column.removeprefix("style-"))
    instance = row["instance_seed"]
    if style is not None and style.instance is not None:
        instance = style.instance
    try:
        views = render_seed(run, generator, labels, row["seed"], instance)
        reference = None
        if style is not None:
            front = labels[:1]
            reference = render_seed(run, generator, front, row["reference_seed"], instance)
    except er.RendererError as error:
        return Failure(row, "render_error", str(error))
    except FloatingPointError as error:
        return Failure(row, "non_finite", str(error))
    encode = partial(_encode_views, run, generator, description, row, views, reference)
    return Made(row, encode, time.perf_counter() - began)


def _encode_views(
    run: RunManifest,
    generator: Generator,
    description: dict[str, Any],
    row: dict[str, Any],
    views: dict[str, torch.Tensor],
    reference: dict[str, torch.Tensor] | None,
) -> dict[str, bytes]:
    """The members of a sample, in their order in the tar."""
    outputs = run.outputs
    limits = generator.rendering_kwargs["ray_start"], generator.rendering_kwargs["ray_end"]
    depth, mask = (views[name][:, 0].cpu().numpy() for name in ("image_depth", "image_mask"))
    extension = codecs.EXTENSIONS[outputs.rgb]
    members = {}
    for index, image in enumerate(codecs.to_uint8(views["image"].cpu())):
        view = f"view_{index:02d}"
        members[f"{view}.rgb.{extension}"] = codecs.encode_rgb(image, outputs.rgb)
        if outputs.depth != "none":
            distances = codecs.encode_depth(depth[index], *limits, outputs.depth)
            members[f"{view}.depth.{codecs.EXTENSIONS[outputs.depth]}"] = distances
        if outputs.mask:
            members[f"{view}.mask.png"] = codecs.encode_mask(mask[index])
    if reference is not None:
        image = codecs.to_uint8(reference["image"].cpu())[0]
        members[f"reference_00.rgb.{extension}"] = codecs.encode_rgb(image, outputs.rgb)
    names = {name: row[name] for name in ("key", "seed", "split")}
    members["json"] = codecs.encode_json(description | names)
    return members


def _describe(
    run: RunManifest, source: str, generator: Generator, labels: torch.Tensor
) -> dict[str, Any]:
    """What every sample's JSON says beside its own key, seed and split."""
    limits = generator.rendering_kwargs
    description: dict[str, Any] = {
        "generator": {"source": source, "digest": generator.digest, "style": generator.style},
        "truncation_psi": run.generator.truncation_psi,
        "resolution": run.outputs.resolution,
        "convention": CONVENTION,
        "views": describe_views(labels),
    }
    if run.outputs.depth != "none":
        description["depth"] = {
            "meaning": DEPTH_MEANING,
            "start": limits["ray_start"],
            "end": limits["ray_end"],
            "levels": codecs.LEVELS if run.outputs.depth == "png16" else None,
        }
    return description
