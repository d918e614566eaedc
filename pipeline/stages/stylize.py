"""Stylize: a rendered column through DiffStyle360, once per style reference."""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

import eg3d_renderer as er
from eg3d_renderer.generators import Generator
from manifests.run import Stylize
from pipeline.devices import describe_device, encoder_threads
from pipeline.errors import PipelineError
from pipeline.folders import RunFolder
from pipeline.images import to_model
from pipeline.references import open_reference
from pipeline.seeds import derive_seed
from pipeline.shards import ShardError, codecs
from pipeline.shards.reader import Column, read_clip
from pipeline.stages.render import CONVENTION, render_seed, rig_labels
from pipeline.stages.samples import Failure, Made, write_samples
from stylize import DiffStyle360, stylize_views


@dataclass
class Stylization:
    """What the shards of all references share: the model and how it is asked."""

    folder: RunFolder
    settings: Stylize
    model: DiffStyle360
    digest: str  # sha256 of the model's weights
    device: torch.device
    hints: Generator | None  # renders other identities, for the hint `camera`


def open_stylization(folder: RunFolder, device: torch.device) -> Stylization:
    """Load the model. Raises PipelineError where the manifest or the model lacks what it takes."""
    settings = folder.run.stylize
    if settings is None:
        raise PipelineError("the run manifest has no stylize section: nothing to stylize")
    weights = folder.stylizer / "model.safetensors"
    if not weights.is_file():
        raise PipelineError(f"{weights}: no stylizer yet; run `diffstyle360 finetune` first")
    with weights.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    model = DiffStyle360.from_pretrained(folder.stylizer).to(device).eval()
    hints = None
    if settings.hint == "camera":
        generator = folder.run.generator
        hints = er.load_generator(generator.source, device, generator.precision)
    return Stylization(folder, settings, model, digest, device, hints)


def stylize_shard(stylization: Stylization, reference: str, shard: str) -> None:
    """Write one shard of the column ``stylized-REFERENCE``; its keys are the rendered column's.

    An identity is stylized on its own, from its own noise, so its bytes depend neither on the shard
    nor on the order of the work. One that cannot be read, or comes out non-finite, is a failed row.
    """
    folder, settings = stylization.folder, stylization.settings
    column = f"stylized-{reference}"
    provenance = describe_device(stylization.device) | {
        "column": column,
        "run": folder.run.digest(),
        "stylizer": stylization.digest,
        "settings": settings.model_dump(mode="json", exclude={"references", "model"}),
    }
    content = Column(folder.column("render"), [shard])
    style_of = open_reference(folder, reference, [shard])
    rows = folder.rows(shard)
    made = (_stylize_identity(stylization, content, style_of, row) for row in rows)
    encoders = encoder_threads(stylization.device)
    write_samples(folder.column(column), shard, provenance, made, len(rows), encoders)


def _stylize_identity(
    stylization: Stylization,
    content: Column,
    style_of: Callable[[str], np.ndarray],
    row: dict[str, Any],
) -> Made | Failure:
    began = time.perf_counter()
    run, settings, key = stylization.folder.run, stylization.settings, row["key"]
    size = stylization.model.config.image_size
    try:
        images = read_clip(content, key, range(run.rig.count), check=True)
        cameras = content.read(key, ["json"])["json"]["views"]
        reference = style_of(key)
    except ShardError as error:
        return Failure(row, "content_unreadable", str(error))
    views = to_model(images, size).to(stylization.device)  # [V, 3, S, S]
    hint = views if stylization.hints is None else _render_hint(stylization, key, size)
    try:
        stylized = stylize_views(
            stylization.model,
            front=views[0],
            back=views[len(views) // 2],
            hint=hint,
            style=to_model(reference[None], size)[0].to(stylization.device),
            steps=settings.steps,
            presence=settings.presence,
            temperature=settings.temperature,
            guidance=(settings.content_guidance, settings.style_guidance),
            seed=row["noise_seed"],
        )
    except FloatingPointError as error:
        return Failure(row, "non_finite", str(error))
    if not torch.isfinite(stylized).all():
        return Failure(row, "non_finite", "the stylizer's output is not finite")
    encode = partial(_encode_stylized, stylization, row, stylized.cpu(), reference, cameras)
    return Made(row, encode, time.perf_counter() - began)


def _render_hint(stylization: Stylization, key: str, size: int) -> torch.Tensor:
    """Another identity at the same cameras, [V, 3, S, S]; `key` and the run's seed say which."""
    run = stylization.folder.run
    assert stylization.hints is not None
    labels = rig_labels(run, stylization.hints).to(stylization.device)
    seed = derive_seed(run.seed, "hint", key)
    views = render_seed(run, stylization.hints, labels, seed, seed)
    return to_model(codecs.to_uint8(views["image"].cpu()), size).to(stylization.device)


def _encode_stylized(
    stylization: Stylization,
    row: dict[str, Any],
    stylized: torch.Tensor,
    reference: np.ndarray,
    cameras: list[dict[str, Any]],
) -> dict[str, bytes]:
    run, settings = stylization.folder.run, stylization.settings
    extension = codecs.EXTENSIONS[run.outputs.rgb]
    members = {
        f"view_{index:02d}.rgb.{extension}": codecs.encode_rgb(image, run.outputs.rgb)
        for index, image in enumerate(codecs.to_uint8(stylized))
    }
    names = {name: row[name] for name in ("key", "seed", "split", "noise_seed")}
    members["json"] = codecs.encode_json(
        names
        | {
            "stylizer": stylization.digest,
            "style_image": hashlib.sha256(reference.tobytes()).hexdigest(),
            "settings": settings.model_dump(exclude={"references", "model", "split"}),
            "resolution": stylized.shape[-1],
            "convention": CONVENTION,
            "views": cameras,
        }
    )
    return members
