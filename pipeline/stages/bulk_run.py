"""A bulk stylization as a run: planned once, then made by any number of jobs, a shard each."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from manifests import BulkManifest
from manifests.urls import absolute
from pipeline.errors import PipelineError
from pipeline.folders import BulkFolder
from pipeline.inputs.jobs import Asked
from pipeline.inputs.planned import bring_back_jobs, encode_plan, read_jobs
from pipeline.inputs.remote import CACHE
from pipeline.inputs.sources import Input, fingerprint
from pipeline.shards.files import write_whole
from pipeline.shards.writer import is_committed
from pipeline.stages.bulk import BulkRequest, load_bulk, plan_request, stylize_bulk_shard
from stylize import Sampling


def plan_bulk(folder: BulkFolder) -> int:
    """List the content, write which sample each shard holds, and return how many samples.

    Beside the plan, `stylize.json` says what was asked for and what was listed. While no shard is
    begun, planning again takes what is there by then. Raises PipelineError where the content, or a
    style image, cannot be used, or where shards were begun and the content has changed since.
    """
    _, columns = plan_request(build_request(folder.bulk), folder.path)
    jobs = [job for shards in columns.values() for some in shards.values() for job in some]
    listed = _describe_listing(list(dict.fromkeys(job.content for job in jobs)))
    text = json.dumps(
        {"manifest": folder.bulk.model_dump(), "content": listed},
        indent=1,
        default=lambda path: str(path.absolute()),
    )
    claim = hashlib.sha256(f"{folder.bulk.digest()} {listed['listing']}".encode()).hexdigest()
    _refuse_change(folder, listed)
    folder.path.mkdir(parents=True, exist_ok=True)
    write_whole(folder.request_path, text.encode())
    write_whole(folder.plan_path, encode_plan(columns, claim, folder.path / CACHE))
    return len(jobs)


def stylize_planned(
    folder: BulkFolder,
    columns: Sequence[str],
    shards: Sequence[str],
    device: torch.device,
    compiled: bool = False,
) -> list[str]:
    """Make the planned shards that are not there yet; the columns that have them.

    Only some `columns` and `shards` where any are named: a shard in each column that has one of its
    name. Their jobs alone are read of the plan, and nothing is loaded where none is missing. Raises
    ManifestError without a plan, PipelineError for a name that is not in it.
    """
    wanted = _choose(folder, columns, shards)
    missing = {
        column: [name for name in names if not is_committed(folder.column(column), name)]
        for column, names in wanted.items()
    }
    if any(missing.values()):
        planned, claim = read_jobs(folder.plan_path, missing)
        request = build_request(folder.bulk)
        if request.content is not None:
            planned = bring_back_jobs(request.content, folder.path / CACHE, planned)
        bulk = load_bulk(request, folder.path, planned, device, compiled, claim)
        for column, names in missing.items():
            for name in names:
                stylize_bulk_shard(bulk, column, name)
    return list(wanted)


def build_request(bulk: BulkManifest) -> BulkRequest:
    """What a manifest asks for, as a command line would; its paths are absolute."""
    sampling = bulk.sampling.model_dump(exclude={"precision"})
    return BulkRequest(
        content=bulk.content and absolute(bulk.content),
        portraits=bulk.portraits,
        styles={name: image.absolute() for name, image in bulk.styles.items()},
        table=bulk.table and bulk.table.absolute(),
        model=bulk.model,
        asked=Asked(
            hint=bulk.hint,
            views=bulk.views,
            presence=bulk.sampling.presence,
            temperature=bulk.sampling.temperature,
            shard_size=bulk.shard_size,
        ),
        generator=bulk.generator,
        sampling=Sampling(**sampling),
        precision=bulk.sampling.precision,
        seed=bulk.seed,
        rgb=bulk.rgb,
        align=bulk.align,
    )


def _choose(
    folder: BulkFolder, columns: Sequence[str], shards: Sequence[str]
) -> dict[str, list[str]]:
    """The shards with these names of the columns with these names; of all, where none is named."""
    planned = folder.shards
    for column in columns:
        if column not in planned:
            raise PipelineError(f"no column {column!r} in this run; there: {', '.join(planned)}")
    chosen = {column: planned[column] for column in columns or planned}
    known = dict.fromkeys(name for names in chosen.values() for name in names)
    for shard in shards:
        if shard not in known:
            first, *_, last = [*known, *known]
            raise PipelineError(f"no shard {shard!r} in this run; {first} to {last}")
    if not shards:
        return chosen
    found = {c: [name for name in names if name in shards] for c, names in chosen.items()}
    return {column: names for column, names in found.items() if names}


def _describe_listing(contents: Sequence[Input]) -> dict[str, Any]:
    return {"inputs": len(contents), "listing": fingerprint(contents)}


def _refuse_change(folder: BulkFolder, listed: Mapping[str, Any]) -> None:
    """Raise where shards were made of another listing than this."""
    path = folder.request_path
    if not path.is_file() or not any(folder.path.glob("stylized*/*")):
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))["content"]
        inputs, listing = before["inputs"], before["listing"]
    except (ValueError, KeyError, TypeError):
        raise PipelineError(f"{path}: not as it was written; give the run another name") from None
    if listing != listed["listing"]:
        raise PipelineError(
            f"{folder.path}: shards of this run were made of {inputs} inputs, and what is there "
            f"now, {listed['inputs']} inputs, is not the same: bring it back, or give the manifest "
            "another name; stylize goes on with what was planned"
        )
