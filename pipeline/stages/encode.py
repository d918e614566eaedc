"""Encode: rendered columns to latents, once, for fine-tunes that read them again and again."""

import dataclasses
import hashlib
import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from manifests.stylizer import Finetune
from pipeline.devices import describe_device, encoder_threads
from pipeline.errors import PipelineError
from pipeline.folders import RunFolder
from pipeline.images import to_model
from pipeline.shards import ShardError, codecs
from pipeline.shards.reader import Column
from pipeline.shards.records import read_commit
from pipeline.stages.clips import REFERENCE
from pipeline.stages.render import CONVENTION
from pipeline.stages.samples import Failure, Made, write_samples
from stylize import DiffStyle360

CODEC = ("image_size", "latent_factor", "latent_scale", "vae_channels")  # of the config


@dataclass
class Encoder:
    """What the shards of all columns share."""

    folder: RunFolder
    model: DiffStyle360
    digest: str  # of the codec
    device: torch.device


def open_encoder(folder: RunFolder, device: torch.device) -> Encoder:
    """The codec of the stylizer that the run's fine-tune starts from.

    Raises PipelineError where the manifest asks for no latents, or the codec has no weights.
    """
    wanted = folder.run.finetune
    if wanted is None or not wanted.cache_latents:
        raise PipelineError("the run manifest has no finetune.cache_latents: nothing to encode")
    model = DiffStyle360.from_pretrained(str(wanted.start))
    digest = digest_codec(model, wanted)
    assert model.vae is not None
    model.vae.to(device, torch.float32).eval()
    return Encoder(folder, model, digest, device)


def digest_codec(model: DiffStyle360, wanted: Finetune) -> str:
    """SHA-256 of all that decides an image's latents.

    Raises PipelineError for a model whose latents are blocks of pixels: keeping these saves nothing
    and costs disk.
    """
    if model.vae is None:
        raise PipelineError(
            f"finetune.cache_latents: the latents of {wanted.start} are blocks of pixels; "
            "leave it out"
        )
    config = dataclasses.asdict(model.config)
    digest = hashlib.sha256(repr([config[name] for name in CODEC]).encode())
    for name, tensor in sorted(model.vae.state_dict().items()):
        digest.update(name.encode())
        content = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)
        digest.update(content.numpy().data)
    return digest.hexdigest()


def check_latents(folder: RunFolder, columns: list[str], shards: list[str], digest: str) -> None:
    """Raise PipelineError for latents that another codec made, ShardError for missing ones."""
    for column in columns:
        for shard in shards:
            path = folder.column(column) / f"{shard}.parquet"
            if read_commit(path).provenance.get("codec") != digest:
                raise PipelineError(
                    f"{path}: made by another codec than finetune.start has; remove the folder "
                    "and run `diffstyle360 encode` again"
                )


def encode_shard(encoder: Encoder, column: str, shard: str) -> None:
    """Write one shard of the column ``latents-COLUMN``; its keys are the rendered column's.

    Members are float16 [C, h, w], one a view and one for the style image. An identity that cannot
    be read, or whose latents are not finite in half precision, is a failed row.
    """
    folder = encoder.folder
    if column not in folder.run.encoded_columns:
        known = ", ".join(folder.run.encoded_columns)
        raise PipelineError(f"no column {column!r} to encode; there: {known}")
    provenance = describe_device(encoder.device) | {
        "column": f"latents-{column}",
        "run": folder.run.digest(),
        "codec": encoder.digest,
    }
    images = Column(folder.column(column), [shard])
    rows = folder.rows(shard)
    make = partial(map, partial(_encode_identity, encoder, images))
    workers = encoder_threads(encoder.device)
    write_samples(folder.column(f"latents-{column}"), shard, provenance, rows, make, workers)


def _encode_identity(encoder: Encoder, images: Column, row: dict[str, Any]) -> Made | Failure:
    began = time.perf_counter()
    key, size = row["key"], encoder.model.config.image_size
    try:
        meta = images.read(key, ["json"], check=True)["json"]
        names = [view["name"] for view in meta["views"]]
        if images.folder.name != "render":
            names.append(REFERENCE)
        found = images.read(key, [f"{name}.rgb" for name in names])
    except ShardError as error:
        return Failure(row, "content_unreadable", str(error))
    by_name = {suffix.split(".")[0]: pixels for suffix, pixels in found.items()}
    pixels = to_model(np.stack([by_name[name] for name in names]), size).to(encoder.device)
    with torch.inference_mode():
        latents = encoder.model.encode(pixels).half().cpu()
    if not torch.isfinite(latents).all():
        return Failure(row, "non_finite", "latents are not finite in half precision")
    encode = partial(_encode_members, row, names, latents.numpy(), meta["views"], encoder.digest)
    return Made(row, encode, time.perf_counter() - began)


def _encode_members(
    row: dict[str, Any],
    names: list[str],
    latents: np.ndarray,
    cameras: list[dict[str, Any]],
    digest: str,
) -> dict[str, bytes]:
    members = {
        f"{name}.latent.npy": codecs.encode_array(array)
        for name, array in zip(names, latents, strict=True)
    }
    about = {name: row[name] for name in ("key", "seed", "split")}
    about |= {"codec": digest, "convention": CONVENTION, "views": cameras}
    members["json"] = codecs.encode_json(about)
    return members
