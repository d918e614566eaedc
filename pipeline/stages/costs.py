"""What one stage of a run will take, by what it took of a run that was made."""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

from manifests import RunManifest
from manifests.ranges import count_shards
from manifests.stylizer import MODEL_FILES, Finetune
from pipeline.console import show_bytes
from pipeline.folders import RunFolder
from pipeline.rates import Device, Rate, measure_checkpoints, read_benchmark, read_step_seconds
from pipeline.space import CHECKPOINTS_KEPT

FILES_OF_SHARD = 3  # tar, index and Parquet
FILES_OF_JOB = 2  # log and benchmark
FILES_OF_CHECKPOINT = 4
FINETUNE_THREADS = 2  # on a CPU, as `pipeline.devices` has it
CORE = Device("cpu", "CPU", 1)  # evaluating and verifying
WIDS_BYTES = 140  # of a shard's entry in its column's index
UNTIMED = "start-up of jobs not measured (no benchmarks)"


class Source(NamedTuple):
    """A run that was made, at least in part, and the rates of the columns it has."""

    folder: RunFolder
    rates: dict[str, Rate]


@dataclass(frozen=True)
class Stage:
    """What one stage of a run will take."""

    name: str
    samples: int  # finetune: clips
    views: int
    jobs: int
    files: int
    bytes: float
    seconds: float  # of all jobs together
    longest: float  # seconds of the longest job
    overhead: float  # of these, beside its samples
    device: Device
    measured: str  # on what
    in_shards: bool = True

    def wall_seconds(self, devices: int) -> float:
        """At most this with so many jobs at once, whatever their order (Graham's bound)."""
        waves = math.ceil(self.jobs / devices) * self.longest
        return min(waves, self.seconds / devices + (1 - 1 / devices) * self.longest)


def cost_column(run: RunManifest, column: str, source: Source) -> Stage | str:
    """A column's stage by the source's rate of it, scaled to this run's views and steps; or what
    the source lacks, to be said after its name. So are all that follow."""
    rate, there = source.rates.get(column), source.folder.run
    if rate is None:
        return "has no committed sample of it"
    more = not column.endswith("render") and column not in run.stylized_columns  # the style image
    views = run.rig.count
    larger = (views + more) / (there.rig.count + more)
    longer, notes = larger, []
    if views != there.rig.count:
        notes.append(_scaled("views", there.rig.count, views))
    if column in run.stylized_columns and run.stylize and there.stylize:
        longer *= run.stylize.steps / there.stylize.steps
        if run.stylize.steps != there.stylize.steps:
            notes.append(_scaled("steps", there.stylize.steps, run.stylize.steps))
    splits = run.made_columns[column]
    counts = [run.count(split) for split in splits]
    samples = sum(counts)
    jobs = sum(count_shards(run, split) for split in splits)
    seconds, overhead = longer * rate.seconds, rate.overhead or 0.0
    told = f"{rate.overhead:.3g} s more a job" if rate.overhead is not None else UNTIMED
    per_view = f"{rate.seconds / there.rig.count:.3g} s"
    per_view += f" and {show_bytes(rate.bytes / there.rig.count)} a view"
    where = f"{rate.samples} samples, {rate.device.name}, {source.folder.path}"
    return Stage(
        name=column,
        samples=samples,
        views=samples * views,
        jobs=jobs,
        files=jobs * (FILES_OF_SHARD + FILES_OF_JOB),
        bytes=samples * rate.bytes * larger,
        seconds=samples * seconds + jobs * overhead,
        longest=min(run.shards.identities, max(counts)) * seconds + overhead,
        overhead=overhead,
        device=rate.device,
        measured="; ".join([f"{per_view}, {told}; {where}", *notes]),
    )


def _scaled(what: str, there: int, here: int) -> str:
    """What does not depend on them, such as an identity itself, is scaled with all else."""
    return f"taken from {there} {what} to {here}, so at {'most' if here > there else 'least'} this"


def join_columns(name: str, stages: list[Stage]) -> Stage:
    """Columns that one verb makes, as one stage."""
    total = {
        field: sum(getattr(stage, field) for stage in stages)
        for field in ("samples", "views", "jobs", "files", "bytes", "seconds")
    }
    measured = "; ".join(f"{stage.name}: {stage.measured}" for stage in stages)
    longest = max(stages, key=lambda stage: stage.longest)
    return replace(longest, name=name, measured=measured, **total)


def cost_finetune(wanted: Finetune, source: Source) -> Stage | str:
    """By the mean of the source's steps, and by what its job took beside them."""
    folder, there = source.folder, source.folder.run.finetune
    times, checkpoints = read_step_seconds(folder), measure_checkpoints(folder)
    if not times or checkpoints is None or there is None:
        return "has no step and checkpoint of it"
    if not source.rates:
        return "has no shard, which would say the device"
    device = next(iter(source.rates.values())).device
    if device.kind == "cpu":
        device = device._replace(threads=FINETUNE_THREADS)
    took, overhead, told = read_benchmark(folder.path / "benchmarks" / "finetune.tsv"), 0.0, UNTIMED
    if took is not None and took > sum(times):  # less: it was killed, and went on
        overhead = (took - sum(times)) * _looks(wanted) / _looks(there)
        told = f"{overhead:.3g} s for start-up, checkpoints and validation"
    mean = sum(times) / len(times)
    kept = min(CHECKPOINTS_KEPT, -(-wanted.steps // wanted.checkpoint_every))
    clips = wanted.steps * wanted.batch * wanted.accumulate
    return _whole(
        "finetune",
        clips,
        clips * wanted.views,
        FILES_OF_CHECKPOINT * kept + len(MODEL_FILES) + 1,
        kept * checkpoints[0] + checkpoints[1],
        wanted.steps * mean + overhead,
        device,
        f"{mean:.3g} s a step, {told}; {len(times)} steps, {device.name} (as its first column), "
        f"counted as one device, {folder.path}",
    )


def _looks(finetune: Finetune) -> int:
    """How often a fine-tune does something beside its steps."""
    every = [finetune.checkpoint_every]
    if finetune.validation:
        every += [finetune.validation.every, finetune.validation.sample_every or finetune.steps]
    return sum(-(-finetune.steps // steps) for steps in every)


def cost_evaluate(run: RunManifest, source: Source) -> Stage | str:
    """By the seconds and bytes of a stylized view."""
    folder = source.folder
    took = read_benchmark(folder.path / "benchmarks" / "evaluate.tsv")
    if took is None or not folder.metrics_path.is_file():
        return "was not evaluated by Snakemake, which takes the time"
    samples, there = _stylized_samples(run), _stylized_samples(folder.run)
    views = samples * run.rig.count
    seconds = took / (there * folder.run.rig.count)  # a view
    size = folder.metrics_path.stat().st_size / (there * folder.run.rig.count)
    told = f"{seconds:.3g} s a view, its start-up among it, counted as one core"
    told += f"; {there} samples, {folder.path}"
    return _whole("evaluate", samples, views, 1, views * size, views * seconds, CORE, told)


def _stylized_samples(run: RunManifest) -> int:
    assert run.stylize is not None
    return run.count(run.stylize.split) * len(run.stylize.references)


def cost_verify(columns: list[Stage], source: Source) -> Stage | str:
    """By the bytes of all columns that are verified."""
    folder, run = source.folder, source.folder.run
    took = read_benchmark(folder.path / "benchmarks" / "verify.tsv")
    if took is None:
        return "was not verified by Snakemake, which takes the time"
    names = (*run.columns, *run.latent_columns, *run.stylized_columns)
    if lacking := [name for name in names if name not in source.rates]:
        return f"has no committed sample of {lacking[0]}"
    counts = {name: sum(run.count(split) for split in run.made_columns[name]) for name in names}
    speed = sum(source.rates[name].bytes * counts[name] for name in names) / took
    told = f"{speed / 1e6:.3g} MB a second, its start-up among it, counted as one core"
    told += f"; {sum(counts.values())} samples, {folder.path}"
    samples, views = (sum(getattr(c, field) for c in columns) for field in ("samples", "views"))
    size, shards = (sum(getattr(c, field) for c in columns) for field in ("bytes", "jobs"))
    files = 1 + len(names)
    return _whole(
        "verify", samples, views, files, shards * WIDS_BYTES, size / speed, CORE, told
    )  # fmt: skip


def _whole(
    name: str,
    samples: int,
    views: int,
    files: int,
    size: float,
    seconds: float,
    device: Device,
    measured: str,
) -> Stage:
    """A stage that is one job for the whole run."""
    return Stage(
        name=name,
        samples=samples,
        views=views,
        jobs=1,
        files=files + FILES_OF_JOB,
        bytes=size,
        seconds=seconds,
        longest=seconds,
        overhead=0.0,
        device=device,
        measured=measured,
        in_shards=False,
    )
