"""Stylize: a rendered column through DiffStyle360, once per style reference."""

import hashlib
import itertools
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import eg3d_renderer as er
from eg3d_renderer.generators import Generator
from manifests import RunManifest
from manifests.digests import digest_file
from manifests.stylizer import Stylize
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
from stylize import BankCache, DiffStyle360, Sampling, stylize_views
from stylize.sampling import views_at_once

BANK_BYTES = 4 << 30  # for a style's states at all timesteps: 1.2 GB for 50 steps at 512 px in bf16


@dataclass
class Stylizer:
    """A loaded model, and what its records say about it."""

    model: DiffStyle360
    digest: str  # sha256 of its weights' file
    device: torch.device
    views_at_once: int  # through the denoiser; halved where the GPU's memory does not hold them
    compiled: bool = False  # the denoiser, by torch.compile
    banks: BankCache = field(default_factory=lambda: BankCache(BANK_BYTES))  # of shared styles


@dataclass
class Stylization:
    """What the shards of all references share: the model and how it is asked."""

    folder: RunFolder
    settings: Stylize
    stylizer: Stylizer
    hints: Generator | None  # renders other identities, where a reference has the hint `camera`


@dataclass
class Subject:
    """An identity that is about to be stylized, S the model's image size."""

    row: dict[str, Any]
    front: torch.Tensor  # [3, S, S] in [-1, 1]
    back: torch.Tensor | None  # [3, S, S]
    hint: torch.Tensor  # [V, 3, S, S]
    style: np.ndarray  # [H, W, 3] uint8
    cameras: list[dict[str, Any]]


def open_stylizer(
    folder: Path, device: torch.device, precision: str, compiled: bool = False
) -> Stylizer:
    """Load a stylizer, "exact" in float32 or "fast" in bfloat16; `compiled` by torch.compile.

    Raises PipelineError where there is none, StylizerError where it cannot be loaded.
    """
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise PipelineError(f"{weights}: no stylizer there; run `diffstyle360 finetune` first")
    digest = digest_file(weights)
    dtype = torch.bfloat16 if precision == "fast" else torch.float32
    model = DiffStyle360.from_pretrained(folder, dtype).to(device).eval()
    if compiled:
        model.denoiser.compile()
    return Stylizer(model, digest, device, views_at_once(model.config), compiled)


def open_stylization(
    folder: RunFolder, device: torch.device, compiled: bool = False
) -> Stylization:
    """Load the model. Raises PipelineError where the manifest or the model lacks what it takes."""
    settings = folder.run.stylize
    if settings is None:
        raise PipelineError("the run manifest has no stylize section: nothing to stylize")
    stylizer = open_stylizer(folder.stylizer, device, settings.precision, compiled)
    hints = None
    if any(settings.hint_of(reference) == "camera" for reference in settings.references):
        generator = folder.run.generator
        hints = er.load_generator(generator.source, device, generator.precision)
    return Stylization(folder, settings, stylizer, hints)


def stylize_shard(stylization: Stylization, reference: str, shard: str) -> None:
    """Write one shard of the column ``stylized-REFERENCE``; its keys are the rendered column's.

    An identity has its own noise and no part in what becomes of others. On a CPU each goes alone,
    so that its bytes depend neither on the shard nor on the order of the work; a GPU takes as many
    at once as fill it, which changes rounding alone. One that cannot be read, or comes out
    non-finite, is a failed row.
    """
    folder, settings = stylization.folder, stylization.settings
    stylizer = stylization.stylizer
    column = f"stylized-{reference}"
    style_of = open_reference(folder, reference, [shard])  # names those that are there, if it fails
    described = describe_settings(settings, reference)
    provenance = describe_stylizer(stylizer) | {
        "column": column,
        "run": folder.run.digest(),
        "settings": described,
    }
    content = Column(folder.column("render"), [shard])
    shared = settings.references[reference].image is not None
    sampling = Sampling(**settings.sampling(reference))
    size = identities_at_once(stylizer, folder.run.rig.count)
    encode = partial(_encode_stylized, folder.run, stylizer.digest, described)

    def make(rows: list[dict[str, Any]]) -> Iterator[Made | Failure]:
        for first in range(0, len(rows), size):
            subjects = [
                _read_subject(stylization, reference, content, style_of, row)
                for row in rows[first : first + size]
            ]
            yield from stylize_subjects(stylizer, subjects, sampling, shared, encode)

    encoders = encoder_threads(stylizer.device)
    write_samples(folder.column(column), shard, provenance, folder.rows(shard), make, encoders)


def describe_stylizer(stylizer: Stylizer) -> dict[str, Any]:
    """What made the bytes, for a shard's record."""
    facts = {"stylizer": stylizer.digest, "compiled": stylizer.compiled}
    return describe_device(stylizer.device) | facts


def describe_settings(settings: Stylize, reference: str) -> dict[str, Any]:
    """What decides a stylized sample's bytes beside content, style and weights."""
    others = {"hint": settings.hint_of(reference), "precision": settings.precision}
    return settings.sampling(reference) | others


def identities_at_once(stylizer: Stylizer, views: int) -> int:
    """How many identities of so many views go through the model together."""
    if stylizer.device.type != "cuda":
        return 1
    return max(1, stylizer.views_at_once // views)


def stylize_subjects(
    stylizer: Stylizer,
    subjects: list[Subject | Failure],
    sampling: Sampling,
    shared: bool,
    encode: Callable[[Subject, torch.Tensor], dict[str, bytes]],
) -> Iterator[Made | Failure]:
    """What becomes of some identities, in their order; `shared` says that their style is one.

    `encode` turns a subject and its views [V, 3, S, S] on the CPU into a sample's members.
    """
    for kind, group in itertools.groupby(subjects, _kind):
        alike = list(group)
        if kind is None:
            yield from (subject for subject in alike if isinstance(subject, Failure))
            continue
        began = time.perf_counter()
        together = [subject for subject in alike if isinstance(subject, Subject)]
        stylized = _stylize_together(stylizer, together, sampling, shared)
        seconds = (time.perf_counter() - began) / len(together)
        for subject, views in zip(together, stylized, strict=True):
            if torch.isfinite(views).all():
                yield Made(subject.row, partial(encode, subject, views), seconds)
            else:
                yield Failure(subject.row, "non_finite", "the stylizer's output is not finite")


def _kind(subject: Subject | Failure) -> tuple[int, bool] | None:
    """What subjects must have in common to be stylized together; None for a failure."""
    if isinstance(subject, Failure):
        return None
    return len(subject.hint), subject.back is None


def _stylize_together(
    stylizer: Stylizer, subjects: list[Subject], sampling: Sampling, shared: bool
) -> torch.Tensor:
    """Subjects of one kind to their views [B, V, 3, S, S] on the CPU.

    Where a GPU runs out of memory, half as many are tried, and from then on. Raises PipelineError
    where a single view is too much.
    """
    made: list[torch.Tensor] = []
    done = 0
    while done < len(subjects):
        some = subjects[done : done + identities_at_once(stylizer, len(subjects[0].hint))]
        try:
            made.append(_stylize_some(stylizer, some, sampling, shared))
            done += len(some)
        except torch.OutOfMemoryError:
            _take_fewer(stylizer)
    return torch.cat(made)


def _take_fewer(stylizer: Stylizer) -> None:
    where = f"{stylizer.device}: out of memory"
    if stylizer.views_at_once == 1:
        raise PipelineError(
            f"{where} with one view at a time; use precision: fast, or a GPU with more memory that "
            "nothing else uses"
        )
    stylizer.views_at_once //= 2
    torch.cuda.empty_cache()
    print(f"{where}; from now on {stylizer.views_at_once} views at a time", file=sys.stderr)


def _stylize_some(
    stylizer: Stylizer, subjects: list[Subject], sampling: Sampling, shared: bool
) -> torch.Tensor:
    size, device = stylizer.model.config.image_size, stylizer.device
    styles = [to_model(subject.style[None], size)[0] for subject in subjects]
    backs = [subject.back for subject in subjects if subject.back is not None]
    return stylize_views(
        stylizer.model,
        front=torch.stack([subject.front for subject in subjects]).to(device),
        back=torch.stack(backs).to(device) if backs else None,
        hint=torch.stack([subject.hint for subject in subjects]).to(device),
        style=(styles[0] if shared else torch.stack(styles)).to(device),
        sampling=sampling,
        seeds=[subject.row["noise_seed"] for subject in subjects],
        style_banks=stylizer.banks if shared else None,
        at_once=stylizer.views_at_once,
    ).cpu()


def _read_subject(
    stylization: Stylization,
    reference: str,
    content: Column,
    style_of: Callable[[str], np.ndarray],
    row: dict[str, Any],
) -> Subject | Failure:
    run, key, size = (
        stylization.folder.run,
        row["key"],
        stylization.stylizer.model.config.image_size,
    )
    try:
        views = to_model(read_clip(content, key, range(run.rig.count), check=True), size)
        cameras = content.read(key, ["json"])["json"]["views"]
        style = style_of(key)
        hint = views
        if stylization.settings.hint_of(reference) == "camera":
            assert stylization.hints is not None
            hint = render_hint(run, stylization.hints, key, stylization.stylizer)
    except ShardError as error:
        return Failure(row, "content_unreadable", str(error))
    except FloatingPointError as error:
        return Failure(row, "non_finite", str(error))
    return Subject(row, views[0], views[len(views) // 2], hint, style, cameras)


def hint_seed(run: RunManifest, key: str) -> int:
    """Of the identity that the hint `camera` shows for another one."""
    return derive_seed(run.seed, "hint", key)


def render_hint(
    run: RunManifest, generator: Generator, key: str, stylizer: Stylizer
) -> torch.Tensor:
    """Another identity at the same cameras, [V, 3, S, S]; see `hint_seed`."""
    labels = rig_labels(run, generator).to(stylizer.device)
    seed = hint_seed(run, key)
    views = render_seed(run, generator, labels, seed, seed)
    return to_model(codecs.to_uint8(views["image"].cpu()), stylizer.model.config.image_size)


def _encode_stylized(
    run: RunManifest, digest: str, described: dict[str, Any], subject: Subject, views: torch.Tensor
) -> dict[str, bytes]:
    extension = codecs.EXTENSIONS[run.outputs.rgb]
    members = {
        f"view_{index:02d}.rgb.{extension}": codecs.encode_rgb(image, run.outputs.rgb)
        for index, image in enumerate(codecs.to_uint8(views))
    }
    names = {name: subject.row[name] for name in ("key", "seed", "split", "noise_seed")}
    members["json"] = codecs.encode_json(
        names
        | {
            "stylizer": digest,
            "style_image": hashlib.sha256(subject.style.tobytes()).hexdigest(),
            "settings": described,
            "resolution": views.shape[-1],
            "convention": CONVENTION,
            "views": subject.cameras,
        }
    )
    return members
