"""Bounds: the most bytes that something can take before any of it is made."""

import json
import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open

from manifests import RunManifest, shipped
from manifests.run import name_of
from manifests.stylizer import MODEL_FILES
from pipeline.errors import PipelineError

PUBLISHED_SIZE, PUBLISHED_DEPTH = 512, 128  # pixels of the views of an official .pkl, at most
PROCEDURAL_SIZE = 128  # pixels
SHARD_ENDS = 24_000  # bytes: the end of a tar, the frame of a Parquet
MEMBER_ENDS = 512 + 511 + 200  # bytes: header, padding, line of the index
OF_A_GENERATOR = "neural_rendering_resolution", "rendering_kwargs", "init_kwargs"  # in config.json
OF_A_STYLIZER = "image_size", "latent_factor", "vae_channels"


class Sizes(NamedTuple):
    """Pixels on a side of what is rendered."""

    image: int
    neural: int  # of depth, mask and normals


def bound_sample(run: RunManifest, column: str) -> float:
    """The most bytes that a sample of a column can take in its tar, its index and its Parquet."""
    views, outputs = run.rig.count, run.outputs
    if column.startswith("latents-"):
        config = stylizer_config(run.finetune.start if run.finetune else None)
        side = config["image_size"] // config["latent_factor"]
        channels = 4 if config["vae_channels"] else 3 * config["latent_factor"] ** 2
        images = views + (column != "latents-render")
        members = [2 * channels * side * side + 128] * images
    elif column.startswith("stylized-"):
        size = stylizer_config(_stylizer_given(run))["image_size"]
        members = [bound_image(3 * size**2)] * views
    else:
        image, neural = find_sizes(run)
        view = [bound_image(3 * image**2)]
        depths = [of for of in (outputs.depth, outputs.z_depth) if of != "none"]
        view += [bound_image({"png16": 2, "npy": 4}[of] * neural**2) for of in depths]
        view += [bound_image(3 * neural**2)] * outputs.normals
        view += [bound_image(neural**2)] * outputs.mask
        members = view * views + [bound_image(3 * image**2)] * (column != "render")
    return sum_sample(members, views)


def sum_sample(images: Sequence[float], views: int) -> float:
    """Bytes of a sample with such images: with its JSON, in the tar, the index and the Parquet."""
    members = [*images, 1000 * views + 4000]  # 50 numbers a camera
    return sum(members) + len(members) * MEMBER_ENDS + 400  # its row of the Parquet


def bound_image(raw: int) -> int:
    """Of an encoded image of so many raw bytes: noise grows by little in every format."""
    return raw + raw // 16 + 1024


def find_sizes(run: RunManifest) -> Sizes:
    """What the run renders; where it leaves a size open, the generator's own.

    An official .pkl is not opened for that: it counts as the largest that is published. Raises
    PipelineError for a folder without a readable config.json.
    """
    wanted, neural = run.outputs.resolution, run.outputs.neural_rendering_resolution
    source, name = Path(run.generator.source), name_of(run.generator.source)
    if name is None and source.suffix == ".pkl":
        return Sizes(wanted or PUBLISHED_SIZE, neural or PUBLISHED_DEPTH)
    own = PROCEDURAL_SIZE
    if name != "procedural":
        folder = source.parent if source.suffix == ".safetensors" else source
        config = _read_config(
            shipped.generator_folder() if name == shipped.DEMO else folder, OF_A_GENERATOR
        )
        own = config["neural_rendering_resolution"]
        if config["rendering_kwargs"].get("superresolution_module") != "none":
            image = config["init_kwargs"].get("img_resolution", PUBLISHED_SIZE)
            return Sizes(wanted or image, neural or own)
    return Sizes(wanted or own, wanted or own)


def bound_checkpoint(run: RunManifest) -> tuple[int, int]:
    """The most bytes of a fine-tune's checkpoint and of its model: float32, from the start's names.

    A checkpoint has what is trained four times: as it is, averaged, and AdamW's two moments.
    """
    assert run.finetune is not None
    path = (run.finetune.start or shipped.stylizer_folder()) / MODEL_FILES[1]
    try:
        with safe_open(path, "numpy") as file:
            names = list(file.keys())
            counts = {name: math.prod(file.get_slice(name).get_shape()) for name in names}
    except (OSError, SafetensorError) as error:
        raise PipelineError(f"{path}: not a readable safetensors file: {error}") from None
    trained = sum(
        count
        for name, count in counts.items()
        if not name.startswith(("vae.", "back_"))
        and (
            run.finetune.train == "all"
            or name.startswith("style_encoder.")
            or ".attn1.processor." in name
        )
    )
    return 4 * 4 * trained + 1_000_000, 4 * sum(counts.values()) + 1_000_000


def _stylizer_given(run: RunManifest) -> Path | None:
    """What the stylized columns are made with, or what it is fine-tuned from."""
    given = run.stylize.model if run.stylize else None
    return given or (run.finetune.start if run.finetune else None)


def stylizer_config(folder: Path | None) -> dict[str, Any]:
    """The config.json of a stylizer; None: of the one in the package, whose sizes are the preset's.

    Raises PipelineError where it cannot be read.
    """
    return _read_config(folder or shipped.stylizer_folder(), OF_A_STYLIZER)


def _read_config(folder: Path, keys: Collection[str]) -> dict[str, Any]:
    path = folder / MODEL_FILES[0]
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PipelineError(f"{path}: cannot read it: {error}") from None
    for key in keys:
        if not isinstance(content, dict) or key not in content:
            raise PipelineError(f"{path}: has no {key}; is it the folder of such a model?")
    return content
