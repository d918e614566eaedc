"""Simulate: what a run will take, by what runs that were made have taken."""

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pydantic

from manifests import RunManifest
from pipeline.bounds import stylizer_config
from pipeline.errors import PipelineError
from pipeline.folders import RunFolder
from pipeline.rates import measure_column
from pipeline.stages.costs import (
    Source,
    Stage,
    cost_column,
    cost_evaluate,
    cost_finetune,
    cost_verify,
    join_columns,
)
from pipeline.stages.plan import MANIFEST

WITHOUT_COST = (  # keys of a stylizer's config.json that change no time
    "prediction", "hint_residual", "latent_scale", "chroma", "train_timesteps", "beta_start",
    "beta_end", "timestep_spacing",
)  # fmt: skip

OF_A_STEP = (  # settings of a fine-tune that decide a step's time
    "train", "batch", "accumulate", "views", "resolution", "precision", "gradient_checkpointing",
    "cache_latents",
)  # fmt: skip
FREE = "steps", "eta", "temperature"  # of sampling: scaled to, or without cost
ADVICE = (
    "make a small run of the same manifest, with fewer identities, by Snakemake, and give its "
    "folder: --measured RUNS/NAME-HASH"
)

Settings = dict[str, Any]  # what decides a stage's time and bytes, by the manifest's keys
Asked = Callable[[RunFolder], Settings | None]  # None: the run has no such stage


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
        stages += look(name, partial(_rendered, name), partial(cost_column, run, name))
    latents = []
    for name in run.latent_columns:
        latents += look(name, partial(_encoded, name), partial(cost_column, run, name))
    stages += [join_columns("encode", latents)] if latents else []
    if run.finetune:
        stages += look("finetune", _finetuned, partial(cost_finetune, run.finetune))
    for name in run.stylized_columns:
        stages += look(name, partial(_stylized, name), partial(cost_column, run, name))
    columns = [stage for stage in stages if stage.in_shards]
    if run.stylize:
        stages += look("evaluate", _evaluated, partial(cost_evaluate, run))
    if not missing:  # it goes by the bytes of all columns
        stages += look("verify", _verified, partial(cost_verify, columns))
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
