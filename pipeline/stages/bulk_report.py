"""The report of a bulk stylization: a contact sheet a style, counts and failures, in one file."""

from pathlib import Path
from typing import Any

import numpy as np
import yaml

from manifests.schemas import OK
from pipeline.counts import Count, count_column
from pipeline.folders import BulkFolder
from pipeline.images import ImageFailure, decode_picture, read_file
from pipeline.inputs.contents import load_recorded
from pipeline.inputs.jobs import Job
from pipeline.inputs.planned import find_jobs
from pipeline.shards.files import write_whole
from pipeline.shards.reader import Column, read_clip
from pipeline.shards.records import list_records, read_commit, read_outcome, read_records
from pipeline.stages import pictures
from pipeline.stages.report import list_makers, open_template

SHOWN = 24  # samples of a sheet, evenly spread over its column
VIEWS = 5  # of each
EXAMPLES = 5  # of each kind of failure


def report_bulk(folder: BulkFolder) -> None:
    """Write `report.html`, which opens offline and refers to nothing outside of itself.

    Raises PipelineError where the run is not verified yet, ManifestError where it is not planned.
    """
    template = open_template("bulk_report.html.j2", folder.verified_path)
    columns = [folder.column(name) for name in folder.shards]
    page = template.render(
        bulk=folder.bulk,
        name=folder.path.name,
        digest=folder.bulk.digest(),
        manifest=yaml.safe_dump(folder.bulk.model_dump(mode="json"), sort_keys=False),
        sheets=[_sheet(folder, column) for column in columns],
        provenance=list_makers(columns),
    )
    write_whole(folder.report_path, page.encode())


def _sheet(folder: BulkFolder, path: Path) -> dict[str, Any]:
    """What the page shows of a column: how its samples ended, and some of them."""
    count, commits = count_column(path), [read_commit(p) for p in path.glob("*.parquet")]
    column = Column(path)
    samples = []
    if column.keys:
        keys = [column.keys[index] for index in pictures.spread(len(column), SHOWN)]
        jobs = find_jobs(folder.plan_path, path.name, keys)
        samples = [_show(column, jobs[key]) for key in keys]
    return {
        "column": path.name,
        "shards": len(commits),
        "samples": count.total,
        "ok": count.ok,
        "failed": count.failed,
        "failures": _list_failures(path, count),
        "megabytes": sum(commit.bytes for commit in commits) / 1e6,
        "seconds": count.seconds / max(count.ok, 1),
        "shown": samples,
    }


def _show(column: Column, job: Job) -> dict[str, str]:
    """A sample as a strip: its content, its style image, then views once around."""
    meta = column.read(job.key, ["json"])["json"]
    shown = pictures.spread(len(meta["views"]), VIEWS)
    views = pictures.thumbnails(read_clip(column, job.key, shown))
    strip = pictures.contact_sheet([[_content(job, meta["files"]), _style(job), *views]])
    uri = pictures.to_uri(pictures.encode_webp(strip))
    return {"key": job.key, "name": job.label or job.content.name, "uri": uri}


def _content(job: Job, files: list[dict[str, Any]]) -> np.ndarray:
    """The front of what was stylized, [S, S, 3]; paper where that is no longer there."""
    try:
        content = load_recorded(job.content, pictures.SHOWN, files)
        [front] = pictures.thumbnails(content.views[:1])
        return front
    except ImageFailure:
        return np.full((1, 1, 3), pictures.PAPER, np.uint8)


def _style(job: Job) -> np.ndarray:
    try:
        return decode_picture(read_file(job.style, job.style.name), "", pictures.SHOWN).pixels
    except ImageFailure:
        return np.full((1, 1, 3), pictures.PAPER, np.uint8)


def _list_failures(column: Path, count: Count) -> list[dict[str, Any]]:
    """The kinds of failure of a column, the most frequent first, with the first of each."""
    examples: dict[str, list[dict[str, str]]] = {kind: [] for kind in count.failures}
    for path in list_records(column):
        if all(len(told) == EXAMPLES for told in examples.values()):
            break
        if read_outcome(path).statuses.keys() - {OK}:
            rows, _ = read_records(path, ["key", "status", "message"])
            for row in rows.to_pylist():
                told = examples.get(row["status"])
                if told is not None and len(told) < EXAMPLES:
                    told.append({"key": row["key"], "message": row["message"]})
    return [
        {"kind": kind, "number": number, "examples": examples[kind]}
        for kind, number in count.failures.items()
    ]
