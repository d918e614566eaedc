"""Which samples a bulk stylization has: from inputs and styles, columns of shards of jobs."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path

from manifests.names import LONGEST, clean, style_name
from pipeline.errors import PipelineError
from pipeline.inputs.listing import list_one, names_in
from pipeline.inputs.naming import stem
from pipeline.inputs.sources import SPLIT, Input
from pipeline.inputs.tables import Row

FOLDERS_KEPT = 1000  # whose names are remembered while a table is read


@dataclass(frozen=True)
class Job:
    """One sample of an output column: an input, and how it is stylized."""

    key: str
    content: Input
    style: Path
    presence: float
    temperature: float
    hint: str  # "content": the input's own views; "camera": another identity's
    views: int
    shard: str
    split: str
    label: str | None = None  # the row's name in the table


@dataclass(frozen=True)
class Asked:
    """What holds for all samples, and how many go into a shard."""

    hint: str
    views: int  # of an orbit, for the hint `camera`
    presence: float
    temperature: float
    shard_size: int


Shards = dict[str, list[Job]]


def name_styles(images: Sequence[Path]) -> dict[str, Path]:
    """Style images by the names that their files give them.

    Raises PipelineError where two have the same.
    """
    names = [style_name(image) for image in images]
    if doubled := [name for name, count in Counter(names).items() if count > 1]:
        raise PipelineError(f"--style: two files are called {doubled[0]!r}; rename one")
    return dict(zip(names, images, strict=True))


def plan_styles(
    inputs: Sequence[Input], styles: Mapping[str, Path], asked: Asked
) -> dict[str, Shards]:
    """One column ``stylized-NAME`` a style, each of all inputs.

    The keys are the inputs'. Inputs with another number of views than most go to a column of their
    own, ``stylized-NAME.v8``, since the samples of a column have the same members. Samples of a
    column of ours stay in their shards.
    """
    columns: dict[str, Shards] = {}
    for name, style in styles.items():
        jobs = [_make_job(one.key, one, style, asked) for one in inputs]
        columns |= _shard(f"stylized-{name}", jobs, asked)
    return columns


def plan_table(
    rows: Sequence[Row],
    table: Path,
    inputs: Sequence[Input],
    asked: Asked,
    aligned: bool = False,
) -> dict[str, Shards]:
    """The column ``stylized`` (and ``stylized.v8``, as in `plan_styles`): one sample a row.

    Contents are keys or names of the inputs, or paths as seen from the table; styles are paths. The
    key of a row is ``row-``, its number, and its name. A content that is ambiguous or missing is a
    job that fails. Landmarks, a row's or else those beside a portrait, count where it is `aligned`.
    """
    find = _finder(inputs, table.parent)
    jobs = []
    for index, row in enumerate(rows):
        key = f"row-{index:08d}" + (f"-{clean(row.name)}" if row.name else "")
        style = table.parent / row.style
        content = find(row.content)
        if aligned:
            content = replace(content, points=row.landmarks)
        elif content.landmarks is not None:
            content = replace(content, landmarks=None)
        jobs.append(_make_job(key[:LONGEST], content, style, asked, row))
    return _shard("stylized", jobs, asked)


def _finder(inputs: Sequence[Input], folder: Path) -> Callable[[str], Input]:
    by_name: dict[str, dict[str, Input]] = defaultdict(dict)  # every name, to inputs by their key
    for one in inputs:
        for name in (one.name, stem(one.name), one.origin):
            by_name[name][one.key] = one
    by_key = {one.key: one for one in inputs}
    remembered = lru_cache(FOLDERS_KEPT)(names_in)

    @cache
    def find(name: str) -> Input:
        if name in by_key:
            return by_key[name]
        found = list(by_name.get(name, {}).values())
        if len(found) > 1:
            message = f"{name}: {len(found)} inputs are called so; give a key, as {found[0].key}"
            return Input(name, name, problem=("ambiguous", message), key=clean(name))
        return found[0] if found else list_one(folder / name, name, remembered)

    return find


def _make_job(key: str, content: Input, style: Path, asked: Asked, row: Row | None = None) -> Job:
    hint = asked.hint
    if hint == "auto":
        hint = "content" if content.is_multiview else "camera"
    presence, temperature, label = asked.presence, asked.temperature, None
    if row is not None:
        presence = presence if row.presence is None else row.presence
        temperature = temperature if row.temperature is None else row.temperature
        label = row.name
    own = hint == "content"
    return Job(
        key=key,
        content=content,
        style=style,
        presence=presence,
        temperature=temperature,
        hint=hint,
        views=max(content.count, len(content.views)) if own else asked.views,
        shard=content.shard if row is None else "",
        split=content.split if row is None else SPLIT,
        label=label,
    )


def _shard(name: str, jobs: Sequence[Job], asked: Asked) -> dict[str, Shards]:
    """The columns of these jobs: that of most views under the plain name."""
    counts = Counter(job.views for job in jobs if _can_work(job))
    most = max(counts, key=lambda views: (counts[views], views), default=asked.views)
    columns: dict[str, list[Job]] = defaultdict(list)
    for job in jobs:
        plain = job.views == most or not _can_work(job)
        columns[name if plain else f"{name}.v{job.views}"].append(job)
    return {column: dict(_split(members, asked.shard_size)) for column, members in columns.items()}


def _can_work(job: Job) -> bool:
    """Whether an input is known to have views, so that it counts."""
    return job.content.problem is None and job.views > 1


def _split(jobs: Sequence[Job], size: int) -> Iterator[tuple[str, list[Job]]]:
    if all(job.shard for job in jobs):
        shards: Shards = defaultdict(list)
        for job in jobs:
            shards[job.shard].append(job)
        yield from shards.items()
        return
    for number, first in enumerate(range(0, len(jobs), size)):
        yield f"{SPLIT}-{number:05d}", list(jobs[first : first + size])
