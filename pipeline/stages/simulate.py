"""Simulate: what a run will take, by what runs that were made have taken."""

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pydantic

from manifests import RunManifest
from manifests.ranges import count_shards
from manifests.stylizer import MODEL_FILES, Finetune
from pipeline.console import show_bytes
from pipeline.errors import PipelineError
from pipeline.estimates import (
    CHECKPOINTS_KEPT,
    Device,
    Rate,
    Stage,
    measure_checkpoints,
    measure_column,
    read_benchmark,
    read_step_seconds,
    stylizer_config,
)
from pipeline.folders import RunFolder
from pipeline.stages.plan import MANIFEST

FILES_OF_SHARD = 3  # tar, index and Parquet
FILES_OF_JOB = 2  # log and benchmark
FILES_OF_CHECKPOINT = 4
FINETUNE_THREADS = 2  # on a CPU, as `pipeline.devices` has it
WITHOUT_COST = (  # keys of a stylizer's config.json that change no time
    "prediction", "hint_residual", "latent_scale", "chroma", "train_timesteps", "beta_start",
    "beta_end", "timestep_spacing",
)  # fmt: skip

OF_A_STEP = (  # settings of a fine-tune that decide a step's time
    "train", "batch", "accumulate", "views", "resolution", "precision", "gradient_checkpointing",
    "cache_latents",
)  # fmt: skip
FREE = "steps", "eta", "temperature"  # of sampling: scaled to, or without cost
CORE = Device("cpu", "CPU", 1)  # evaluating and verifying
WIDS_BYTES = 140  # of a shard's entry in its column's index
ADVICE = (
    "make a small run of the same manifest, with fewer identities, by Snakemake, and give its "
    "folder: --measured RUNS/NAME-HASH"
)
UNTIMED = "start-up of jobs not measured (no benchmarks)"

Settings = dict[str, Any]  # what decides a stage's time and bytes, by the manifest's keys
Asked = Callable[[RunFolder], Settings | None]  # None: the run has no such stage


class Source(NamedTuple):
    """A run that was made, at least in part, and the rates of the columns it has."""

    folder: RunFolder
    rates: dict[str, Rate]


def open_measured(path: Path) -> RunFolder:
    """A run's folder, with the manifest that `plan` left in it.

    Raises PipelineError where there is none that can be read.
    """
    told, again = path / MANIFEST, "run `diffstyle360 plan` with the manifest that made it"
    if not path.is_dir():
        raise PipelineError(f"{path}: no such folder; give one below the folder of all runs")
    if not told.is_file():
        raise PipelineError(f"{told}: not there, so nothing says what was measured; {again}")
    try:
        content = json.loads(told.read_text(encoding="utf-8"))
        return RunFolder(RunManifest.model_validate(content, context={"folder": path}), path)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        raise PipelineError(f"{told}: {key}: {first['msg']}; {again}") from None
    except (ValueError, RecursionError):
        raise PipelineError(f"{told}: not JSON; {again}") from None


def open_sources(folder: RunFolder, measured: Sequence[Path] = ()) -> list[Source]:
    """What there is to measure on: the folders given, then the run's own where it has shards.

    Raises PipelineError as `open_measured`, and as `measure_column`.
    """
    own = folder.path.resolve()
    others = [open_measured(path) for path in measured if path.resolve() != own]
    sources = []
    for other in (*others, folder):
        run = other.run
        names = (*run.columns, *run.latent_columns, *run.stylized_columns)
        rates = {name: measure_column(other, name) for name in names}
        there = {name: rate for name, rate in rates.items() if rate}
        if there or other is not folder:
            sources.append(Source(other, there))
    return sources


def simulate_run(folder: RunFolder, sources: Sequence[Source]) -> list[Stage]:
    """What each stage of the run will take, whatever of it is made already.

    Arithmetic on the rates of the first source that was made as this run asks; other numbers of
    identities, views and steps are scaled to. Raises PipelineError, one line, for all stages that
    no source measured.
    """
    run, missing = folder.run, defaultdict[str, list[str]](list)

    def look(name: str, settings: Asked, build: Callable[[Source], Stage | str]) -> list[Stage]:
        reasons = []
        for source in sources:
            there = settings(source.folder)
            found: Stage | str = "has no such stage"
            if there is not None:
                found = _difference(settings(folder) or {}, there) or build(source)
            if isinstance(found, Stage):
                return [found]
            reasons.append(f"{source.folder.path} {found}")
        missing["; ".join(reasons)].append(name)
        return []

    if not sources:
        raise PipelineError(f"{folder.path}: nothing of this run is made yet; {ADVICE}")

    stages = []
    for name in run.columns:
        stages += look(name, partial(_rendered, name), partial(_column_stage, run, name))
    latents = []
    for name in run.latent_columns:
        latents += look(name, partial(_encoded, name), partial(_column_stage, run, name))
    stages += [_join("encode", latents)] if latents else []
    if run.finetune:
        stages += look("finetune", _finetuned, partial(_finetune_stage, run.finetune))
    for name in run.stylized_columns:
        stages += look(name, partial(_stylized, name), partial(_column_stage, run, name))
    columns = [stage for stage in stages if stage.in_shards]
    if run.stylize:
        stages += look("evaluate", _evaluated, partial(_evaluate_stage, run))
    if not missing:  # it goes by the bytes of all columns
        stages += look("verify", _verified, partial(_verify_stage, columns))
    if missing:
        told = [f"{', '.join(names)}: {reason}" for reason, names in missing.items()]
        raise PipelineError(f"no measurement of {'; of '.join(told)}; {ADVICE}")
    return stages


def _difference(here: Settings, there: Settings) -> str | None:
    """The first setting that makes a measurement there worth nothing here."""
    for key in here | there:
        if here.get(key) != there.get(key):
            return f"has {key} {there.get(key)}, and here it is {here.get(key)}"
    return None


def _rendered(column: str, folder: RunFolder) -> Settings | None:
    run, name = folder.run, column.removeprefix("style-")
    if column not in run.columns:
        return None
    style = run.styles[name] if column != "render" else run.generator
    where = "generator" if column == "render" else f"styles.{name}"
    outputs = {f"outputs.{key}": value for key, value in run.outputs.model_dump().items()}
    source = {f"{where}.source": Path(style.source).name}
    return source | {"generator.precision": run.generator.precision} | outputs


def _images(run: RunManifest) -> Settings:
    return {"outputs.resolution": run.outputs.resolution, "outputs.rgb": run.outputs.rgb}


def _encoded(column: str, folder: RunFolder) -> Settings | None:
    if column not in folder.run.latent_columns:
        return None
    return _images(folder.run) | _start_config(folder)


def _finetuned(folder: RunFolder) -> Settings | None:
    wanted = folder.run.finetune
    if wanted is None:
        return None
    asked = {f"finetune.{name}": getattr(wanted, name) for name in OF_A_STEP}
    asked |= {f"finetune.losses.{k}": v for k, v in wanted.losses.model_dump().items()}
    return asked | _images(folder.run) | _start_config(folder)


def _stylized(column: str, folder: RunFolder) -> Settings | None:
    run, name = folder.run, column.removeprefix("stylized-")
    if run.stylize is None or name not in run.stylize.references:
        return None
    asked = {k: v for k, v in run.stylize.sampling(name).items() if k not in FREE}
    asked["presence"] = asked["presence"] > 0
    asked |= {"hint": run.stylize.hint_of(name), "precision": run.stylize.precision}
    asked |= {"one style image": run.stylize.references[name].image is not None}
    other = _rendered("render", folder) if asked["hint"] == "camera" else None
    named = {f"stylize.{key}": value for key, value in asked.items()}
    return named | (other or {}) | _images(run) | _used_config(folder)


def _evaluated(folder: RunFolder) -> Settings | None:
    if folder.run.stylize is None:
        return None
    references = {"stylize.references": sorted(folder.run.stylize.references)}
    return references | _images(folder.run) | _used_config(folder)


def _verified(folder: RunFolder) -> Settings:
    return {f"outputs.{key}": value for key, value in folder.run.outputs.model_dump().items()}


def _used_config(folder: RunFolder) -> Settings:
    given = folder.run.stylize.model if folder.run.stylize else None
    return _sizes_in(stylizer_config(given)) if given else _start_config(folder)


def _start_config(folder: RunFolder) -> Settings:
    """Of what a run fine-tunes; where that is gone, of what it made of it."""
    start = folder.run.finetune.start if folder.run.finetune else None
    made = folder.path / "stylizer"
    if start is not None and not start.is_dir() and made.is_dir():
        start = made
    return _sizes_in(stylizer_config(start))


def _sizes_in(config: Settings) -> Settings:
    return {f"the stylizer's {k}": v for k, v in config.items() if k not in WITHOUT_COST}


def _column_stage(run: RunManifest, column: str, source: Source) -> Stage | str:
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


def _join(name: str, stages: list[Stage]) -> Stage:
    """Columns that one verb makes, as one stage."""
    total = {
        field: sum(getattr(stage, field) for stage in stages)
        for field in ("samples", "views", "jobs", "files", "bytes", "seconds")
    }
    measured = "; ".join(f"{stage.name}: {stage.measured}" for stage in stages)
    longest = max(stages, key=lambda stage: stage.longest)
    return replace(longest, name=name, measured=measured, **total)


def _finetune_stage(wanted: Finetune, source: Source) -> Stage | str:
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


def _evaluate_stage(run: RunManifest, source: Source) -> Stage | str:
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


def _verify_stage(columns: list[Stage], source: Source) -> Stage | str:
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
