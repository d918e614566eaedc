"""Bulk stylization: portraits and multi-view identities of any origin through DiffStyle360."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from itertools import chain, groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

import eg3d_renderer as er
from eg3d_renderer.generators import Generator
from manifests import RunManifest
from manifests.bulk import Align
from manifests.loading import build_run
from manifests.urls import absolute
from pipeline.devices import encoder_threads
from pipeline.folders import REQUEST
from pipeline.images import ImageFailure, Picture, decode_picture, read_file, to_model
from pipeline.inputs.alignment import Alignment, open_alignment
from pipeline.inputs.contents import Content, load_content
from pipeline.inputs.jobs import Asked, Job, Shards, plan_styles, plan_table
from pipeline.inputs.listing import list_content
from pipeline.inputs.remote import CACHE
from pipeline.inputs.sources import SPLIT, Input, fingerprint
from pipeline.inputs.tables import read_table
from pipeline.requests import claim_folder
from pipeline.seeds import derive_seed
from pipeline.shards import codecs
from pipeline.shards.encoding import encode_ahead
from pipeline.stages.render import CONVENTION, describe_views, rig_labels, view_name
from pipeline.stages.samples import Failure, Made, write_samples
from pipeline.stages.stylize import (
    Stylizer,
    Subject,
    describe_stylizer,
    identities_at_once,
    open_stylizer,
    render_hint,
    stylize_subjects,
)
from stylize import Sampling, generate_back

READERS = 2  # threads that decode images beside the stylizing
BACK_WITHIN = 45.0  # degrees from straight behind, of a view that is taken for the back
STYLES_KEPT = 32  # decoded style images of a table


@dataclass(frozen=True)
class BulkRequest:
    """What a command line or a bulk manifest asks for; paths are as given there."""

    content: str | None
    portraits: bool  # every image below the content is one
    styles: Mapping[str, Path]  # by name
    table: Path | None
    model: Path
    asked: Asked
    generator: str  # of the identities that hints show, for the hint `camera`
    sampling: Sampling  # but for the dials that a table may set
    precision: str  # of the stylizer
    seed: int
    rgb: str
    align: Align | None = None  # of lone portraits; None: centred squares


@dataclass
class Hints:
    """What renders other identities, for the hint `camera`."""

    generator: Generator
    run: RunManifest  # its orbit, seed and size
    views: list[dict[str, Any]]  # their names and cameras


@dataclass
class Bulk:
    """A request that can be met: what is read, what makes it, and where it goes."""

    out: Path
    request: BulkRequest
    claim: str  # sha256 of all that it takes
    columns: dict[str, Shards]
    stylizer: Stylizer
    open_style: Callable[[Path], Picture]
    hints: Hints | None  # none where every job shows its content's own views
    alignment: Alignment | None  # of lone portraits


def open_bulk(
    request: BulkRequest, out: Path, device: torch.device, compiled: bool = False
) -> Bulk:
    """List, look at and load all that the request takes, and claim the folder `out` for it.

    Raises PipelineError, or what loading a model or a generator raises, where the request cannot be
    met; nothing was written then but tars that were fetched.
    """
    inputs, columns = plan_request(request, out)
    bulk = load_bulk(request, out, columns, device, compiled)
    hints, open_style = bulk.hints, bulk.open_style
    said = _describe_request(request, bulk.alignment) | {
        "content": {"path": request.content and absolute(request.content),
                    "portraits": request.portraits,
                    "listing": fingerprint(inputs)},
        "styles": {str(s.absolute()): open_style(s).facts["sha256"]
                   for s in request.styles.values()},
        "table": request.table and _describe_file(request.table),
        "model": {"path": str(request.model.absolute()), "sha256": bulk.stylizer.digest},
        "hints": hints and hints.generator.digest,
    }  # fmt: skip
    text = json.dumps(said, indent=1)
    claim_folder(out / REQUEST, text, "stylization")
    return replace(bulk, claim=hashlib.sha256(text.encode()).hexdigest())


def plan_request(request: BulkRequest, out: Path) -> tuple[list[Input], dict[str, Shards]]:
    """The inputs of the content, and the jobs of all columns.

    Tars that lie elsewhere are fetched into a hidden folder of `out`. Raises PipelineError where
    there are no inputs, or where a tar, a style image or what aligns portraits cannot be used.
    """
    inputs = []
    if request.content is not None:
        inputs = list_content(request.content, request.portraits, out / CACHE)
    if request.align is None:
        inputs = [replace(one, landmarks=None) for one in inputs]
    else:
        open_alignment(request.align)  # what cannot be used is told before there are jobs
    if request.table is None:
        columns = plan_styles(inputs, request.styles, request.asked)
    else:
        rows, aligned = read_table(request.table), request.align is not None
        columns = plan_table(rows, request.table, inputs, request.asked, aligned)
    for style in request.styles.values():
        _open_style(None, style)
    return inputs, columns


def load_bulk(
    request: BulkRequest,
    out: Path,
    columns: dict[str, Shards],
    device: torch.device,
    compiled: bool = False,
    claim: str = "",
) -> Bulk:
    """Load what the jobs of `columns` take: the model, and a generator where a hint is another's.

    Raises what loading these raises.
    """
    run = _build_hint_run(request)
    stylizer = open_stylizer(request.model, device, request.precision, compiled)
    size = stylizer.model.config.image_size
    jobs = chain.from_iterable(chain(*(shards.values() for shards in columns.values())))
    hints = _open_hints(run, size, device) if any(job.hint == "camera" for job in jobs) else None
    open_style = lru_cache(max(STYLES_KEPT, len(request.styles)))(partial(_open_style, size))
    alignment = None if request.align is None else open_alignment(request.align)
    return Bulk(out, request, claim, columns, stylizer, open_style, hints, alignment)


def stylize_bulk_shard(bulk: Bulk, column: str, shard: str) -> None:
    """Write one shard of a column. An input that cannot be used is a failed row.

    A sample's noise and hint depend on the request's seed and its input's key alone; on a CPU its
    bytes depend on nothing else, on a GPU the others beside it change rounding.
    """
    jobs, stylizer = bulk.columns[column][shard], bulk.stylizer
    provenance = describe_stylizer(stylizer) | {
        "column": column,
        "request": _describe_request(bulk.request, bulk.alignment),
        "claim": bulk.claim,
        "hints": _hints_digest(bulk, jobs),
    }
    by_key = {job.key: job for job in jobs}

    def make(rows: list[dict[str, Any]]) -> Iterator[Made | Failure]:
        return _make(bulk, [by_key[row["key"]] for row in rows])

    rows, encoders = [_row(bulk, job) for job in jobs], encoder_threads(stylizer.device)
    write_samples(bulk.out / column, shard, provenance, rows, make, encoders)


def _open_style(size: int | None, path: Path) -> Picture:
    return decode_picture(read_file(path, str(path)), str(path), size)


def _build_hint_run(request: BulkRequest) -> RunManifest:
    """The run that hints are rendered as. Raises ManifestError where there is no such generator."""
    content = {
        "name": "hints",
        "seed": request.seed,
        "generator": {"source": request.generator},
        "identities": {SPLIT: 1},
        "rig": {"kind": "orbit", "views": request.asked.views},
    }
    return build_run(content, Path("command line"))


def _open_hints(run: RunManifest, size: int, device: torch.device) -> Hints:
    """No larger than `size`, which the stylizer sees."""
    generator = er.load_generator(run.generator.source, device)
    resolution = min(size, generator.img_resolution or size)
    outputs = run.outputs.model_copy(update={"resolution": resolution})
    run = run.model_copy(update={"outputs": outputs})
    return Hints(generator, run, describe_views(rig_labels(run, generator)))


def _hints_digest(bulk: Bulk, jobs: Sequence[Job]) -> str | None:
    """Of the generator, where one of these jobs has a hint of it."""
    if bulk.hints is None or all(job.hint != "camera" for job in jobs):
        return None
    return bulk.hints.generator.digest


def _describe_request(request: BulkRequest, alignment: Alignment | None) -> dict[str, Any]:
    """All settings, without where anything lies."""
    aligned = {} if alignment is None else {"align": alignment.describe()}
    return aligned | {
        "generator": Path(request.generator).name,
        "seed": request.seed,
        "rgb": request.rgb,
        "precision": request.precision,
        "settings": asdict(request.sampling) | asdict(request.asked),
    }


def _describe_file(path: Path) -> dict[str, str]:
    return {
        "path": str(path.absolute()),
        "sha256": hashlib.sha256(read_file(path, str(path))).hexdigest(),
    }


def _make(bulk: Bulk, jobs: Sequence[Job]) -> Iterator[Made | Failure]:
    """What becomes of the jobs, in their order; images are read while others are stylized."""
    size = identities_at_once(bulk.stylizer, max(job.views for job in jobs))
    read = encode_ahead(partial(_read, bulk), jobs, READERS, READERS + size)
    while batch := list(islice(read, size)):
        for (_, sampling), group in groupby(batch, key=lambda ready: _manner(bulk, ready[0])):
            subjects = [
                found if isinstance(found, Failure) else _prepare(bulk, job, *found)
                for job, found in group
            ]
            encode = partial(_encode, bulk)
            yield from stylize_subjects(bulk.stylizer, subjects, sampling, True, encode)


def _manner(bulk: Bulk, job: Job) -> tuple[Path, Sampling]:
    """What jobs that are stylized together have in common."""
    sampling = bulk.request.sampling
    return job.style, replace(sampling, presence=job.presence, temperature=job.temperature)


def _read(bulk: Bulk, job: Job) -> tuple[Job, Failure | tuple[Content, Picture]]:
    """The images of a job; called on threads."""
    row = _row(bulk, job)
    try:
        size = bulk.stylizer.model.config.image_size
        content = load_content(job.content, size, bulk.alignment)
    except ImageFailure as failure:
        return job, Failure(row, failure.kind, str(failure))
    if job.hint == "content" and len(content.views) < 2:
        message = f"{job.content.name}: a portrait has no other views, which the hint would show"
        return job, Failure(row, "no_views", message)
    try:
        return job, (content, bulk.open_style(job.style))
    except ImageFailure as failure:
        return job, Failure(row, f"style_{failure.kind}", str(failure))


def _row(bulk: Bulk, job: Job) -> dict[str, Any]:
    noise = derive_seed(bulk.request.seed, "noise", job.content.key)
    seed = noise if job.content.seed is None else job.content.seed
    return {"key": job.key, "split": job.split, "seed": seed, "noise_seed": noise}


def _prepare(bulk: Bulk, job: Job, content: Content, style: Picture) -> Subject | Failure:
    """The tensors of a job, and in its row what its JSON says of them."""
    row, size = _row(bulk, job), bulk.stylizer.model.config.image_size
    views = to_model(content.views, size)  # [V, 3, S, S]
    cameras = content.cameras
    try:
        if job.hint == "camera":
            assert bulk.hints is not None
            hint = render_hint(bulk.hints.run, bulk.hints.generator, job.content.key, bulk.stylizer)
            cameras = bulk.hints.views
        else:
            hint = views
        back, origin = _find_back(bulk, job, views, content.back, hint)
    except FloatingPointError as error:
        return Failure(row, "non_finite", str(error))
    described = {
        "name": job.content.name,
        "content": job.content.key,
        "label": job.label,
        "files": content.files,
        "style": {"name": job.style.name} | style.facts,
        "hint": job.hint,
        "back": origin,
        "settings": asdict(_manner(bulk, job)[1]) | {"precision": bulk.request.precision},
        "stylizer": bulk.stylizer.digest,
    }
    if cameras is None:
        described["cameras"] = "unknown"
        cameras = [{"name": view_name(index)} for index in range(len(hint))]
    else:
        described["convention"] = CONVENTION
    return Subject(row | {"described": described}, views[0], back, hint, style.pixels, cameras)


def _find_back(
    bulk: Bulk, job: Job, views: torch.Tensor, given: np.ndarray | None, hint: torch.Tensor
) -> tuple[torch.Tensor | None, str]:
    """The back view [3, S, S] that a model sees, and where it is from.

    "given" with the content, its "own" view from behind, "generated", or "none".
    """
    model, count = bulk.stylizer.model, len(views)
    if given is not None:
        return to_model(given[None], views.shape[-1])[0], "given"
    behind = count // 2
    if count > 1 and 180 - 360 * behind / count <= BACK_WITHIN:
        return views[behind], "own"
    if job.hint == "content" or not model.config.back_view:
        return None, "none"
    device = bulk.stylizer.device
    seed = derive_seed(bulk.request.seed, "back", job.content.key)
    shown = hint[len(hint) // 2 : len(hint) // 2 + 1].to(device)
    made = generate_back(model, views[:1].to(device), shown, bulk.request.sampling, [seed])[0].cpu()
    if not torch.isfinite(made).all():
        raise FloatingPointError(f"{job.content.name}: the generated back view is not finite")
    return made, "generated"


def _encode(bulk: Bulk, subject: Subject, views: torch.Tensor) -> dict[str, bytes]:
    """The members of a sample, from its views [V, 3, S, S] on the CPU."""
    rgb, row = bulk.request.rgb, dict(subject.row)
    members = {
        f"{view_name(index)}.rgb.{codecs.EXTENSIONS[rgb]}": codecs.encode_rgb(image, rgb)
        for index, image in enumerate(codecs.to_uint8(views))
    }
    described = row.pop("described")
    facts = {"resolution": views.shape[-1], "views": subject.cameras}
    members["json"] = codecs.encode_json(row | described | facts)
    return members
