"""Render: the identities of a shard, all around, through the generator of one column."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import interpolate

import eg3d_renderer as er
from eg3d_renderer import geometry
from eg3d_renderer.generators import Generator
from manifests import RunManifest
from manifests.run import Outputs
from pipeline.devices import describe_device, encoder_threads, to_host
from pipeline.errors import PipelineError
from pipeline.folders import RunFolder
from pipeline.shards import codecs
from pipeline.stages.samples import Failure, Made, write_samples

CONVENTION = "OpenCV: x right, y down, z forward; cam2world; intrinsics over image size"
MEANINGS = {
    "depth": "distance from the camera centre along the unit ray, in world units; end: nothing",
    "z_depth": "depth along the optical axis, in world units; end: nothing",
    "normal": "camera axes as above, (n + 1) / 2; from the depth; 0.5 in all: nothing",
}


def render_shard(folder: RunFolder, column: str, shard: str, device: torch.device) -> None:
    """Write one shard of the column ``render`` or ``style-NAME``.

    A sample's bytes depend on the run manifest and on its own row of the plan alone.
    """
    run = folder.run
    source = column_source(run, column)
    generator = er.load_generator(source, device, run.generator.precision)
    base = generator if column == "render" else er.load_generator(run.generator.source)
    labels = rig_labels(run, base).to(device)  # [V, 25], the same for all columns
    rows = folder.rows(shard)
    provenance = describe_device(device) | {
        "column": column,
        "run": run.digest(),
        "generator": {"source": Path(source).name, "digest": generator.digest},
        "precision": run.generator.precision,
        "ops": generator.implementations,
        "outputs": run.outputs.model_dump(),
        "rig": run.rig.model_dump(mode="json", exclude={"file"}),
    }
    description = _describe(run, source, generator, labels)
    render = partial(_render_identity, run, column, generator, labels, description)
    encoders = encoder_threads(device)
    write_samples(folder.column(column), shard, provenance, rows, partial(map, render), encoders)


def column_source(run: RunManifest, column: str) -> str:
    """The generator source of a column. Raises PipelineError for one that is not rendered."""
    if column == "render":
        return run.generator.source
    style = run.styles.get(column.removeprefix("style-"))
    if style is None or not column.startswith("style-"):
        raise PipelineError(f"no column {column!r} to render; there: {', '.join(run.columns)}")
    return style.source


def instance_seed(run: RunManifest, column: str, row: dict[str, Any]) -> int:
    """The seed of a planned identity's instance: the style's own for all, or the identity's."""
    style = run.styles.get(column.removeprefix("style-"))
    if style is not None and style.instance is not None:
        return style.instance
    return row["instance_seed"]


def rig_labels(run: RunManifest, generator: Generator) -> torch.Tensor:
    """The camera labels [V, 25] of the run's rig; what it leaves open is the generator's own."""
    fields = {k: v for k, v in run.rig.model_dump().items() if v is not None}
    return er.cameras.make_rig(**(generator.camera | fields))


def render_seed(
    run: RunManifest, generator: Generator, labels: torch.Tensor, seed: int, instance_seed: int
) -> dict[str, torch.Tensor]:
    """One latent from every camera of `labels` [V, 25]; see `Generator.render` for what it gives.

    The image has the run's resolution; where the mask is below one half, the depth is its end.
    Raises FloatingPointError where a view holds a NaN or an infinity.
    """
    z = er.latents([seed], generator.z_dim)
    instance = er.latents([instance_seed], generator.z_dim)
    z[:, generator.instance] = instance[:, generator.instance]
    image_size, neural_size = _sizes(run.outputs, generator)
    with torch.inference_mode():
        psi = truncation_psi(run, generator)
        ws = generator.mapping(z.to(labels.device), truncation_psi=psi)
        out = generator.render(generator.planes(ws), ws, labels, neural_size)
    for name, tensor in out.items():
        finite = torch.isfinite(tensor).flatten(1).all(1)  # [V]
        if not finite.all():
            view = int((~finite).nonzero()[0])
            raise FloatingPointError(f"seed {seed}: {name} of view {view} is not finite")
    if out["image"].shape[-1] != image_size:
        out["image"] = interpolate(
            out["image"], (image_size, image_size), mode="bilinear", antialias=True
        )
    out["image_mask"] = out["image_mask"].clamp(0, 1)
    _, end = generator.depth_range(labels)
    out["image_depth"] = torch.where(out["image_mask"] < 0.5, end, out["image_depth"])
    return out


def truncation_psi(run: RunManifest, generator: Generator) -> float:
    """What the run asks for, or the generator's usual."""
    return run.generator.truncation_psi or generator.truncation_psi


def describe_views(labels: torch.Tensor) -> list[dict[str, Any]]:
    """Name and camera of every view: the 25-number label, and the same as two matrices."""
    cam2world, intrinsics = er.cameras.split(labels.cpu())
    return [
        {
            "name": view_name(index),
            "label": label.tolist(),
            "cam2world": cam2world[index].tolist(),
            "intrinsics": intrinsics[index].tolist(),
        }
        for index, label in enumerate(labels.cpu())
    ]


def view_name(index: int) -> str:
    return f"view_{index:02d}"


def _sizes(outputs: Outputs, generator: Generator) -> tuple[int, int]:
    """Of the image, and of what is rendered for it. Raises RendererError where they cannot be."""
    wanted, neural = outputs.resolution, outputs.neural_rendering_resolution
    if generator.img_resolution is None:
        if neural is not None:
            raise er.RendererError(
                "outputs.neural_rendering_resolution: this generator renders images as they are; "
                "leave it out"
            )
        size = wanted or generator.neural_rendering_resolution
        return size, size
    if wanted is not None and wanted > generator.img_resolution:
        raise er.RendererError(
            f"outputs.resolution: {wanted} is more than the {generator.img_resolution} that this "
            "generator makes; ask for at most that"
        )
    return wanted or generator.img_resolution, neural or generator.neural_rendering_resolution


def _render_identity(
    run: RunManifest,
    column: str,
    generator: Generator,
    labels: torch.Tensor,
    description: dict[str, Any],
    row: dict[str, Any],
) -> Made | Failure:
    began = time.perf_counter()
    instance = instance_seed(run, column, row)
    try:
        views = render_seed(run, generator, labels, row["seed"], instance)
        reference = None
        if column.startswith("style-"):
            front = labels[:1]
            reference = render_seed(run, generator, front, row["reference_seed"], instance)
    except FloatingPointError as error:
        return Failure(row, "non_finite", str(error))
    if reference is not None:
        views["reference"] = reference["image"]
    encode = partial(_encode_views, run, description, labels.cpu(), row, to_host(views))
    return Made(row, encode, time.perf_counter() - began)


def _encode_views(
    run: RunManifest,
    description: dict[str, Any],
    labels: torch.Tensor,
    row: dict[str, Any],
    wait_for_views: Callable[[], dict[str, torch.Tensor]],
) -> dict[str, bytes]:
    """The members of a sample, in their order in the tar."""
    views, outputs = wait_for_views(), run.outputs
    extension = codecs.EXTENSIONS[outputs.rgb]
    distance, mask = views["image_depth"], views["image_mask"]
    depths = {"depth": (outputs.depth, distance[:, 0].numpy())}
    if outputs.z_depth != "none":
        z = _z_depth(distance, labels, description["z_depth"]["end"])
        depths["z_depth"] = (outputs.z_depth, z[:, 0].numpy())
    normals = None
    if outputs.normals:
        normals = codecs.to_uint8(geometry.normals(distance, mask, labels))
    members = {}
    for index, pixels in enumerate(views["image"]):
        view, image = view_name(index), codecs.to_uint8(pixels)
        members[f"{view}.rgb.{extension}"] = codecs.encode_rgb(image, outputs.rgb)
        for name, (format, values) in depths.items():
            if format != "none":
                limits = description[name]
                member = f"{view}.{name.replace('_', '')}.{codecs.EXTENSIONS[format]}"
                members[member] = codecs.encode_depth(
                    values[index], limits["start"], limits["end"], format
                )
        if normals is not None:
            members[f"{view}.normal.png"] = codecs.encode_rgb(normals[index], "png")
        if outputs.mask:
            members[f"{view}.mask.png"] = codecs.encode_mask(mask[index, 0].numpy())
    if "reference" in views:
        image = codecs.to_uint8(views["reference"])[0]
        members[f"reference_00.rgb.{extension}"] = codecs.encode_rgb(image, outputs.rgb)
    names = {name: row[name] for name in ("key", "seed", "split")}
    members["json"] = codecs.encode_json(description | names)
    return members


def _z_depth(distance: torch.Tensor, labels: torch.Tensor, end: float) -> torch.Tensor:
    """[V, 1, h, w]; what is at the end of the rays, and so nothing, stays at the end."""
    return torch.where(distance < end, geometry.z_depth(distance, labels), end)


def _describe(
    run: RunManifest, source: str, generator: Generator, labels: torch.Tensor
) -> dict[str, Any]:
    """What every sample's JSON says beside its own key, seed and split."""
    image_size, neural_size = _sizes(run.outputs, generator)
    description: dict[str, Any] = {
        "generator": {
            "source": Path(source).name,
            "digest": generator.digest,
            "style": generator.style,
        },
        "truncation_psi": truncation_psi(run, generator),
        "resolution": image_size,
        "neural_rendering_resolution": neural_size,
        "convention": CONVENTION,
        "views": describe_views(labels),
    }
    nearest, end = generator.depth_range(labels)
    depths = ("depth", run.outputs.depth, nearest), ("z_depth", run.outputs.z_depth, 0.0)
    for name, format, start in depths:
        if format != "none":
            description[name] = {
                "meaning": MEANINGS[name],
                "start": start,
                "end": end,
                "levels": codecs.LEVELS if format == "png16" else None,
            }
    if run.outputs.normals:
        description["normal"] = {"meaning": MEANINGS["normal"]}
    return description
