"""What a run costs before it is made: rates of what was made already, and bytes on the disk."""

import csv
import json
import math
import shutil
import statistics
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.compute as pc
from safetensors import SafetensorError, safe_open

from manifests import RunManifest, shipped
from manifests.ranges import count_shards, shard_order
from manifests.run import name_of
from manifests.stylizer import MODEL_FILES
from pipeline.console import show_bytes
from pipeline.errors import PipelineError
from pipeline.folders import RunFolder
from pipeline.shards.records import Commit, read_records

SAMPLED = 200  # shards of a column that are read, at most
CHECKPOINTS_KEPT = 2  # by a fine-tune; a third is there while it is written
PUBLISHED_SIZE, PUBLISHED_DEPTH = 512, 128  # pixels of the views of an official .pkl, at most
PROCEDURAL_SIZE = 128  # pixels
SHOWN = 6  # stages in an error
METHODS = 6  # rows of metrics.parquet a view: ours, the truth's, baselines'
ROW, TABLE = 256, 40_000  # bytes of a row there, and of its frame
SHARD_ENDS = 24_000  # bytes: the end of a tar, the frame of a Parquet
MEMBER_ENDS = 512 + 511 + 200  # bytes: header, padding, line of the index
OF_A_GENERATOR = "neural_rendering_resolution", "rendering_kwargs", "init_kwargs"  # in config.json
OF_A_STYLIZER = "image_size", "latent_factor", "vae_channels"


class Device(NamedTuple):
    kind: str  # "cuda" or "cpu"
    name: str
    threads: int

    @property
    def units(self) -> int:
        """What an hour on it counts: one of a GPU, or of so many cores."""
        return 1 if self.kind == "cuda" else self.threads


class Rate(NamedTuple):
    """What a sample of a column costs, on average over some committed shards."""

    samples: int  # that were counted; failures are none
    seconds: float  # a sample
    bytes: float  # a sample: its share of the tar, the index and the Parquet
    overhead: float | None  # seconds of a job beyond its samples; None: not timed
    device: Device


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


class Need(NamedTuple):
    """What a stage still has to write."""

    name: str  # of a column, or finetune, or evaluate
    bytes: float
    measured: bool  # else it is an upper bound


class Sizes(NamedTuple):
    """Pixels on a side of what is rendered."""

    image: int
    neural: int  # of depth, mask and normals


def measure_column(folder: RunFolder, column: str) -> Rate | None:
    """The rate of a column on the device that made most of its samples; None where it has none.

    At most `SAMPLED` shards are read, evenly spread. Raises ShardError for a damaged Parquet,
    PipelineError for a damaged benchmark.
    """
    made: dict[Device, list[tuple[int, float, int, float | None]]] = defaultdict(list)
    paths = sorted(folder.column(column).glob("[!.]*.parquet"))
    for place in range(min(len(paths), SAMPLED)):
        path = paths[place * len(paths) // min(len(paths), SAMPLED)]
        rows, commit = read_records(path, ["seconds"])
        if not commit.samples:
            continue
        seconds, index = pc.sum(rows["seconds"]).as_py(), path.with_suffix(".idx")
        size = commit.bytes + path.stat().st_size
        size += index.stat().st_size if index.is_file() else 0
        took = read_benchmark(_benchmark_path(folder, column, path.stem))
        overhead = None if took is None else max(0.0, took - seconds)
        made[device_of(commit, path)].append((commit.samples, seconds, size, overhead))
    if not made:
        return None
    device = max(made, key=lambda one: sum(shard[0] for shard in made[one]))
    counts, times, sizes, overheads = zip(*made[device], strict=True)
    known = [overhead for overhead in overheads if overhead is not None]
    samples, middle = sum(counts), statistics.median(known) if known else None
    return Rate(samples, sum(times) / samples, sum(sizes) / samples, middle, device)


def read_benchmark(path: Path) -> float | None:
    """Seconds of a job that Snakemake timed; None where it did not.

    Raises PipelineError for a file that is no benchmark.
    """
    if not path.is_file():
        return None
    try:
        with path.open(newline="") as file:
            return float(list(csv.DictReader(file, delimiter="\t"))[-1]["s"])
    except (IndexError, KeyError, TypeError, ValueError):
        raise PipelineError(
            f"{path}: not a benchmark of Snakemake's; remove it, and its job counts as not timed"
        ) from None


def _benchmark_path(folder: RunFolder, column: str, shard: str) -> Path:
    stage, name = "render", column
    for verb, prefix in (("encode", "latents-"), ("stylize", "stylized-")):
        if column.startswith(prefix):
            stage, name = verb, column.removeprefix(prefix)
    return folder.path / "benchmarks" / stage / name / f"{shard}.tsv"


def device_of(commit: Commit, path: Path) -> Device:
    """The device that made a shard. Raises PipelineError where its record does not say it."""
    facts = commit.provenance
    try:
        return Device(facts["device"], facts["device_name"], facts["threads"])
    except KeyError as error:
        raise PipelineError(f"{path}: does not say its {error.args[0]}; make it again") from None


def read_step_seconds(folder: RunFolder) -> list[float]:
    """Seconds of the steps of a fine-tune, a torn last row left out; none where it made none.

    Raises PipelineError for a table that is not one of losses.
    """
    path = folder.checkpoints / "loss.csv"
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    times: list[float] = []
    for number, row in enumerate(rows):
        try:
            times.append(float(row["seconds"]))
        except (KeyError, TypeError, ValueError):
            if number + 1 == len(rows) and "seconds" in row:
                break
            raise PipelineError(
                f"{path}: row {number + 2} has no seconds; remove the folder, and train again"
            ) from None
    return times


def measure_checkpoints(folder: RunFolder) -> tuple[int, int] | None:
    """Bytes of the largest checkpoint of a fine-tune, and of the model it made.

    A model that is not made yet has no bytes; None where no checkpoint is.
    """
    sizes = [_size_of(path) for path in folder.checkpoints.glob("checkpoint-[0-9]*")]
    return (max(sizes), _size_of(folder.path / "stylizer")) if sizes else None


def _size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def estimate_bytes(folder: RunFolder) -> list[Need]:
    """What each stage of a run still has to write, without the pictures of its report.

    Committed shards count as written. A column with a shard is measured on it; the need of any
    other is an upper bound from the formats. Raises PipelineError where a stylizer's or a
    generator's folder cannot be read.
    """
    run = folder.run
    needs = []
    for column in (*run.columns, *run.latent_columns, *run.stylized_columns):
        samples, shards = _missing(folder, column)
        if rate := measure_column(folder, column):
            needs.append(Need(column, samples * rate.bytes, True))
        else:
            bound = samples * bound_sample(run, column) + shards * SHARD_ENDS
            needs.append(Need(column, bound, False))
    if run.finetune and not (folder.path / "stylizer" / MODEL_FILES[1]).is_file():
        measured = measure_checkpoints(folder)
        checkpoint, _ = measured or bound_checkpoint(run)
        model = bound_checkpoint(run)[1]
        there = _size_of(folder.checkpoints) if folder.checkpoints.is_dir() else 0
        at_once = min(-(-run.finetune.steps // run.finetune.checkpoint_every), CHECKPOINTS_KEPT + 1)
        need = max(0, at_once * checkpoint - there) + model
        needs.append(Need("finetune", need, measured is not None))
    if run.stylize and not folder.metrics_path.is_file():
        identities = run.count(run.stylize.split) * len(run.stylize.references)
        rows = identities * METHODS * (run.rig.count + 1)
        needs.append(Need("evaluate", rows * ROW + TABLE, False))
    return needs


def check_space(folder: RunFolder) -> str | None:
    """Compare what a run still has to write with the free space of its file system.

    Returns one line where the upper bounds do not fit, None where they do. Raises PipelineError
    where what was measured alone does not fit.
    """
    return compare_space(folder.path, estimate_bytes(folder), "identities, views, outputs")


def compare_space(path: Path, needs: Sequence[Need], less: str) -> str | None:
    """As `check_space`, of these needs; `less` names what one may ask for less of."""
    free, known = free_bytes(path), [need for need in needs if need.measured]
    if sum(need.bytes for need in known) > free:
        raise PipelineError(_no_space(path, free, known, "needs another", less))
    if sum(need.bytes for need in needs) > free:
        return _no_space(path, free, needs, "may need up to another", less)
    return None


def free_bytes(path: Path) -> int:
    """What a user may still write on the file system of a folder, there or yet to be made."""
    place = next(each for each in (path, *path.absolute().parents) if each.is_dir())
    return shutil.disk_usage(place).free


def _no_space(path: Path, free: int, needs: Sequence[Need], how: str, less: str) -> str:
    largest = sorted(needs, key=lambda need: -need.bytes)
    shown = ", ".join(f"{need.name} {show_bytes(need.bytes)}" for need in largest[:SHOWN])
    if rest := largest[SHOWN:]:
        shown += f", {len(rest)} more {show_bytes(sum(need.bytes for need in rest))}"
    return (
        f"{path}: {show_bytes(free)} free, and this run {how} "
        f"{show_bytes(sum(need.bytes for need in needs))}: {shown}; free space there, choose "
        f"another disk by --out, or ask for less ({less})"
    )


def _missing(folder: RunFolder, column: str) -> tuple[int, int]:
    """Samples and shards of a column that are not committed; no shard is read."""
    run = folder.run
    splits = run.made_columns[column]
    samples = sum(run.count(split) for split in splits)
    shards = sum(count_shards(run, split) for split in splits)
    for path in folder.column(column).glob("[!.]*.parquet"):
        try:
            split, number = shard_order(path.stem)
        except ValueError:  # not of this run: for `verify` to find
            continue
        if split in splits and number < count_shards(run, split):
            first = number * run.shards.identities
            samples -= min(run.shards.identities, run.count(split) - first)
            shards -= 1
    return samples, shards


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
