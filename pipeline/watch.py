"""The verbs that look after a run: how it stands, and another try for what failed."""

import json
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from manifests import BulkManifest
from pipeline.console import show_bytes
from pipeline.errors import PipelineError
from pipeline.folders import REQUEST, BulkFolder, RunFolder, open_folder
from pipeline.options import takes_run

if TYPE_CHECKING:
    from pipeline.stages.column_status import ColumnStatus
    from pipeline.stages.status import RunStatus


@click.command()
@takes_run
@click.option("--json", "as_json", is_flag=True, help="One JSON object: seconds, bytes, counts.")
def status(manifest: Path, out: Path, as_json: bool) -> None:
    """Say how a run stands: what is made, what failed, how fast it goes, whether the disk suffices.

    Reads files alone, from any machine that sees them, while jobs write them. Rates are of the last
    ten minutes or more, all jobs together; what is left follows from them, and the bytes to come
    from the shards that are there.

    MANIFEST is that of a run, or a bulk one; or the folder that either was planned in.
    """
    from pipeline.stages.status import look_at_bulk, look_at_run

    folder = _open_planned(manifest) if manifest.is_dir() else open_folder(manifest, out)
    found = look_at_run(folder) if isinstance(folder, RunFolder) else look_at_bulk(folder)
    if as_json:
        print(json.dumps(describe(found), indent=1))
    elif not found.started:
        print(f"{folder.path}: nothing is made yet; snakemake, or `diffstyle360 plan`, begins it")
    else:
        print("\n".join(tell(found)))


@click.command("retry-failed")
@takes_run
@click.option("--column", "columns", multiple=True, help="Only this column (repeatable).")
@click.option(
    "--kind", "kinds", multiple=True,
    help="Only shards with a failure of this kind, such as non_finite (repeatable).",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Say what would be tried again; change nothing.")
def retry_failed(
    manifest: Path, out: Path, columns: tuple[str, ...], kinds: tuple[str, ...], dry_run: bool
) -> None:
    """Have the samples that failed made again, and only these.

    Shards with a failed sample move into COLUMN/.retry. When snakemake, or the stage's verb, makes
    such a shard again, it copies from there what was ok, tries all that failed in it, and removes
    the old one. Killed, run it again.

    MANIFEST is that of a run, or a bulk one. It may also be a folder that `render` or `stylize`
    filled without a manifest; the same command then makes its shards again. A run's verified.json,
    metrics.parquet and report.html no longer hold and are removed: so snakemake knows that there is
    something to make, whatever the clocks of the machines say.
    """
    from pipeline.stages.retry import find_failed, find_set_aside, hold_run, set_aside

    folder, known, results = _find_columns(manifest, out)
    for name in columns:
        if name not in known:
            raise PipelineError(f"no column {name!r} in {folder}; there: {', '.join(known)}")
    with nullcontext() if dry_run else hold_run(folder):
        found = {name: find_failed(folder / name, kinds) for name in columns or known}
        waiting = {name: find_set_aside(folder / name) for name in found}
        if not dry_run and any(waiting[name] or found[name].shards for name in found):
            for path in results:
                path.unlink(missing_ok=True)
        for name, failed in found.items():
            if not dry_run:
                set_aside(folder / name, failed.shards)
            if failed.shards:
                doing = "would be set aside" if dry_run else "set aside"
                samples = _some(failed.count.failed, "sample")
                shards = _some(len(failed.shards), "shard")
                print(f"{name}: {shards} {doing}, {samples} to be tried again")
                for kind, number in failed.count.failures.items():
                    print(f"  {number} {kind} (first {failed.count.examples[kind]})")
            else:
                print(f"{name}: {'no such failure' if kinds else 'nothing failed'}")
            if earlier := len(waiting[name]):
                print(f"  {_some(earlier, 'shard')} set aside before, not made again yet")
    if not dry_run and any(find_set_aside(folder / name) for name in known):
        print("now run what made these shards: snakemake, or the stages' verbs")


def _find_columns(manifest: Path, out: Path) -> tuple[Path, list[str], list[Path]]:
    """The folder of a run or of a request, its columns, and the files that tell of them all."""
    from pipeline.stages.retry import ASIDE

    if manifest.is_dir():
        filled = {path.parent for path in manifest.glob("[!.]*/*.parquet")}
        filled |= {path.parent.parent for path in manifest.glob(f"[!.]*/{ASIDE}/*.parquet")}
        if not filled:
            raise PipelineError(f"{manifest}: no column of shards in this folder")
        return manifest, sorted(path.name for path in filled), []
    folder = open_folder(manifest, out)
    if not folder.path.is_dir():
        raise PipelineError(f"{folder.path}: nothing is made yet, so nothing failed")
    results = [folder.verified_path, folder.report_path]
    if isinstance(folder, BulkFolder):
        return folder.path, list(folder.shards), results
    return folder.path, list(folder.run.made_columns), [*results, folder.metrics_path]


def _open_planned(path: Path) -> RunFolder | BulkFolder:
    """The run, of either kind, that was planned in a folder: by what `plan` left there.

    Raises PipelineError where it left nothing that can be read.
    """
    from pipeline.stages.plan import MANIFEST
    from pipeline.stages.simulate import open_measured

    if (path / MANIFEST).is_file():
        return open_measured(path)
    try:
        said = json.loads((path / REQUEST).read_text(encoding="utf-8"))["manifest"]
        return BulkFolder(BulkManifest.model_validate(said), path)
    except FileNotFoundError:
        told = "no run was planned in this folder; give RUNS/NAME-HASH, or the manifest"
    except (KeyError, TypeError):
        told = "made without a manifest, so nothing says how much there will be"
    except ValueError:  # a pydantic.ValidationError is one
        told = f"{REQUEST} is not as `plan` wrote it; give the manifest"
    raise PipelineError(f"{path}: {told}")


def describe(status: "RunStatus") -> dict[str, Any]:
    """A status as plain values for JSON."""
    return {
        "folder": str(status.folder),
        "started": status.started,
        "snakemake": status.locked,
        "columns": {column.name: _describe_column(column) for column in status.columns},
        "content": status.content and dict(zip(("tars", "bytes"), status.content, strict=True)),
        "finetune": status.finetune and vars(status.finetune),
        "artefacts": {name: vars(artefact) for name, artefact in status.artefacts.items()},
        "disk": {
            "bytes": status.bytes,
            "bytes_to_come": status.bytes_to_come,
            "bytes_free": status.bytes_free,
            "fits": status.fits,
        },
    }


def _describe_column(column: "ColumnStatus") -> dict[str, Any]:
    count, rate = column.count, column.samples_per_second
    return {
        "shards": column.shards,
        "shards_asked": column.shards_asked,
        "shards_set_aside": column.set_aside,
        "samples_asked": column.samples_asked,
        "samples_left": column.missing,
        "ok": count.ok,
        "failed": count.failed,
        "failures": {
            kind: {"samples": number, "first": count.examples[kind]}
            for kind, number in count.failures.items()
        },
        "views_per_second": rate and rate * column.views,
        "seconds_left": column.seconds_left,
        "bytes": column.bytes,
        "bytes_to_come": column.bytes_to_come,
        "writing": [vars(writing) for writing in column.writing],
        "damaged": column.damaged,
    }


def tell(status: "RunStatus") -> list[str]:
    """A status in lines for people."""
    making = {
        True: "a snakemake is making it",
        False: "no snakemake is making it",
        None: "whether a snakemake is making it, this file system does not tell",
    }
    rows = [["", "shards", "samples", "failed", "views/s", "left", "bytes", ""]]
    rows += [_tell_column(column) for column in status.columns]
    lines = [f"{status.folder}: {making[status.locked]}"]
    lines += _align(rows) if status.columns else []
    if status.content:
        tars, size = status.content
        lines.append(f"content: {_some(tars, 'tar')} fetched, {show_bytes(size)}")
    if tuned := status.finetune:
        facts = [f"step {tuned.steps} of {tuned.steps_asked}"]
        facts += [f"loss {tuned.loss:.4g}"] if tuned.loss is not None else []
        facts += [f"{_rate(tuned.steps_per_second)} steps/s"] if tuned.steps_per_second else []
        facts += [f"{_duration(tuned.seconds_left)} left"] if tuned.seconds_left is not None else []
        facts += ["stylizer saved"] if tuned.saved else []
        lines.append(f"finetune: {', '.join(facts)}")
    told = {
        name: "older than its columns" if one.stale else "there" if one.there else "not yet"
        for name, one in status.artefacts.items()
    }
    lines.append(", ".join(f"{name}: {state}" for name, state in told.items()))
    for column in status.columns:
        lines += _tell_troubles(column)
    coming = status.bytes_to_come
    known = "an unknown number" if coming is None else f"about {show_bytes(coming)}"
    written, free = show_bytes(status.bytes), show_bytes(status.bytes_free)
    lines.append(f"disk: {written} written, {known} to come, {free} free")
    if status.fits is False:
        lines.append("warning: the columns to come will not fit; free space, or ask for less")
    return lines


def _tell_column(column: "ColumnStatus") -> list[str]:
    rate, left = column.samples_per_second, column.seconds_left
    notes = []
    if alive := Counter(writing.host for writing in column.writing if writing.alive):
        hosts = f"{len(alive)} machines" if len(alive) > 1 else next(iter(alive))
        notes.append(f"{alive.total()} being written on {hosts}")
    if column.set_aside:
        notes.append(f"{column.set_aside} set aside")
    return [
        column.name,
        f"{column.shards}/{column.shards_asked}",
        f"{column.count.total}/{column.samples_asked}",
        str(column.count.failed),
        "-" if rate is None else _rate(rate * column.views),
        "-" if left is None else _duration(left),
        show_bytes(column.bytes),
        ", ".join(notes),
    ]


def _tell_troubles(column: "ColumnStatus") -> list[str]:
    """What failed, died or was damaged, a line each."""
    lines = [
        f"{column.name}: {number} {kind} (first {column.count.examples[kind]})"
        for kind, number in column.count.failures.items()
    ]
    lines += [
        f"{column.name}: the job that wrote {dead.shard} on {dead.host} is dead, "
        f"its last byte {_duration(dead.quiet)} old; making the shard again removes what it left"
        for dead in column.writing
        if not dead.alive
    ]
    if column.damaged:
        lines.append(
            f"{column.name}: {_some(len(column.damaged), 'shard')} damaged, the first: "
            f"{column.damaged[0]}; remove the .parquet, then its stage makes the shard again"
        )
    return lines


def _align(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table: the first and last column to the left, the others to the right."""
    first, *middle, last = zip(*rows, strict=True)
    columns = [[text.ljust(max(map(len, first))) for text in first]]
    columns += [[text.rjust(max(map(len, column))) for text in column] for column in middle]
    return ["  ".join(row).rstrip() for row in zip(*columns, last, strict=True)]


def _rate(number: float) -> str:
    return f"{number:.3g}" if number < 99.5 else f"{number:.0f}"


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 90:
        return f"{minutes} min"
    if minutes < 2880:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60} h"


def _some(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"
