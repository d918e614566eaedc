"""The verb that says what a run will take before it is started."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from manifests import RunManifest
from manifests.ranges import count_shards
from manifests.stylizer import TRAIN_SPLIT
from pipeline.console import show_bytes

if TYPE_CHECKING:
    from pipeline.stages.costs import Stage

PATH = click.Path(path_type=Path)
MOST_JOBS = 10_000  # of one invocation of Snakemake
SHORTEST, MIDDLE, LONGEST = 600, 1800, 3600  # seconds of a job
HEADS = "stage", "samples", "views", "jobs", "files", "size", "hours", "wall h", "cost"


@click.command()
@click.argument("manifest", type=PATH)
@click.option("--out", type=PATH, default="runs", show_default=True, help="Folder of all runs.")
@click.option(
    "--measured", multiple=True, type=PATH, metavar="RUN_FOLDER",
    help="A run that was made, to go by before MANIFEST's own (repeatable).",
)  # fmt: skip
@click.option(
    "--identities", type=click.IntRange(1), metavar="N",
    help="So many in the train split, or else in the largest, instead of the manifest's.",
)  # fmt: skip
@click.option(
    "--gpus", type=click.IntRange(1), default=1, show_default=True,
    help="Jobs at once, each on a GPU, or on the cores of one job where a CPU was measured.",
)  # fmt: skip
@click.option(
    "--price", type=click.FloatRange(0), metavar="EUR", help="Of an hour of a GPU, for the cost."
)
@click.option("--json", "as_json", is_flag=True, help="As JSON, in units: bytes, seconds, EUR.")
def simulate(
    manifest: Path,
    out: Path,
    measured: tuple[Path, ...],
    identities: int | None,
    gpus: int,
    price: float | None,
    as_json: bool,
) -> None:
    """Say what a run will take, stage by stage: jobs, files, bytes, hours and cost.

    Nothing is made. The rates are those of MANIFEST's own shards, if it has some, or of a smaller
    run of the same settings (--measured); a stage that neither has measured is an error. Hours of a
    CPU are those of one core, and have no cost. Stages are taken one after the other.
    """
    from pipeline.folders import RunFolder, open_run
    from pipeline.space import free_bytes
    from pipeline.stages.simulate import open_sources, simulate_run

    folder = open_run(manifest, out)
    sources = open_sources(folder, measured)
    run = folder.run if identities is None else resize_run(folder.run, identities)
    stages = simulate_run(RunFolder(run, folder.path), sources)
    free = free_bytes(folder.path)
    told, advice = tell(run, stages, gpus, price), advise(run, stages)
    if told["sum"]["bytes"] > free:
        advice.append(f"{show_bytes(free)} are free there: choose another disk by --out")
    if as_json:
        print(json.dumps(told | {"free_bytes": free, "advice": advice}, indent=1))
        return
    counts = ", ".join(f"{split} {number:,}" for split, number in told["identities"].items())
    print(f"{run.name}: identities {counts}; {run.rig.count} views of each; at once: {gpus}")
    print(
        f"{as_table(told)}\n{show_bytes(free)} are free where it goes, {folder.path}\n\nmeasured:"
    )
    for stage in stages:
        print(f"  {stage.name}: {stage.measured}")
    for line in advice:
        click.echo(f"diffstyle360: {line}", err=True)


def resize_run(run: RunManifest, identities: int) -> RunManifest:
    """The run with so many identities in the train split, or where it has none, in the largest."""
    largest = max(run.identities, key=run.count)
    split = TRAIN_SPLIT if TRAIN_SPLIT in run.identities else largest
    return run.model_copy(update={"identities": {**run.identities, split: identities}})


def tell(
    run: RunManifest, stages: Sequence["Stage"], devices: int, price: float | None
) -> dict[str, Any]:
    """All figures: `seconds` are of a GPU or a core, `wall_seconds` at most with so many jobs at
    once, `cost` in the price's currency, None for a CPU or without a price."""
    told = [_tell_stage(stage, devices, price) for stage in stages]
    total = {
        name: sum(stage[name] for stage in told)
        for name in ("jobs", "files", "bytes", "wall_seconds")
    }
    for kind in ("gpu", "core"):
        seconds = sum(stage["seconds"] for stage in told if stage["device"] == kind)
        total[f"{kind}_seconds"] = seconds
    made = [stage for stage in told if stage["stage"] in (*run.columns, *run.stylized_columns)]
    total |= {name: sum(stage[name] for stage in made) for name in ("samples", "views")}
    costs = [stage["cost"] for stage in told if stage["cost"] is not None]
    identities = {split: run.count(split) for split in run.identities}
    return {
        "run": run.name,
        "identities": identities,
        "views": run.rig.count,
        "at_once": devices,
        "stages": told,
        "sum": total | {"cost": sum(costs) if costs else None},
    }


def _tell_stage(stage: "Stage", devices: int, price: float | None) -> dict[str, Any]:
    seconds = stage.seconds * stage.device.units
    gpu = stage.device.kind == "cuda"
    return {
        "stage": stage.name,
        "samples": stage.samples,
        "views": stage.views,
        "jobs": stage.jobs,
        "files": stage.files,
        "bytes": round(stage.bytes),
        "device": "gpu" if gpu else "core",
        "device_name": stage.device.name,
        "seconds": seconds,
        "wall_seconds": stage.wall_seconds(devices),
        "job_seconds": stage.longest,
        "cost": seconds / 3600 * price if gpu and price is not None else None,
        "measured": stage.measured,
    }


def as_table(told: dict[str, Any]) -> str:
    """A line a stage, and their sum; samples and views of the sum are of columns of images."""
    rows = [list(HEADS)]
    total = told["sum"]
    for one in (*told["stages"], total):
        kinds = {kind: total[f"{kind}_seconds"] for kind in ("gpu", "core")}
        if one is not total:
            kinds = {one["device"]: one["seconds"]}
        rows.append(
            [
                one.get("stage", "sum"),
                *(f"{one[name]:,}" for name in ("samples", "views", "jobs", "files")),
                show_bytes(one["bytes"]),
                " + ".join(f"{s / 3600:,.2f} {kind}" for kind, s in kinds.items() if s) or "0",
                f"{one['wall_seconds'] / 3600:,.2f}",
                "-" if one["cost"] is None else f"{one['cost']:,.2f}",
            ]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    )


def advise(run: RunManifest, stages: Sequence["Stage"]) -> list[str]:
    """What would go badly, each with what to do: too many jobs, or jobs too short or too long."""
    return [line for line in (_advise_ranges(run, stages), _advise_size(run, stages)) if line]


def _advise_ranges(run: RunManifest, stages: Sequence["Stage"]) -> str | None:
    """How to cut a run of too many jobs; number 0 has the most, as every split has one."""
    jobs = sum(stage.jobs for stage in stages) + 2  # plan and report
    if jobs <= MOST_JOBS:
        return None
    rendered = len(run.columns) * len(run.identities)
    others = len(run.latent_columns) + len(run.stylized_columns)
    size = max(1, (MOST_JOBS - 5) // (rendered + others))
    last = max(count_shards(run, split) for split in run.identities) - 1
    ranges = f"0-{min(size - 1, last)}"
    if size <= last:
        ranges += f", then shards={size}-{min(2 * size - 1, last)}"
    more = -(-(last + 1) // size)
    return (
        f"{jobs:,} jobs, and one invocation of Snakemake takes about {MOST_JOBS:,}: make the run "
        f"in {more} ranges of shards, --config shards={ranges}" + (", ..." if more > 2 else "")
    )


def _advise_size(run: RunManifest, stages: Sequence["Stage"]) -> str | None:
    slowest = max((s for s in stages if s.in_shards), key=lambda stage: stage.longest)
    now, largest = run.shards.identities, max(map(run.count, run.identities))
    if SHORTEST <= slowest.longest <= LONGEST:
        return None
    sample = (slowest.longest - slowest.overhead) / min(now, largest)
    better = max(1, min(largest, int((MIDDLE - slowest.overhead) / max(sample, 1e-9))))
    if better > 100:
        better = better // 10 ** (len(str(better)) - 2) * 10 ** (len(str(better)) - 2)
    if better == now or (slowest.longest < SHORTEST and now >= largest):
        return None
    return (
        f"a job of {slowest.name} takes {slowest.longest / 60:.3g} minutes, and 10 to 60 cost "
        f"least: give shards.identities {better} in place of {now}"
    )
