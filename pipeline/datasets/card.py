"""The data set card of a published collection: what it holds, what made it, how to read it."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from manifests.schemas import OK
from pipeline.datasets.columns import read_rows
from pipeline.datasets.layout import Collection, Shard
from pipeline.errors import PipelineError
from pipeline.shards.reader import Column
from pipeline.stages.averages import MEASURES, Means, average, label_references

MARK = "<!-- published by diffstyle360:"
LICENCES = (  # identifiers of the Hub; any other text is `other`, with that text as its name
    *("apache-2.0", "mit", "bsd-3-clause", "openrail", "creativeml-openrail-m", "odbl", "unknown"),
    *("cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nd-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0"),
    *("cc-by-nc-nd-4.0", "cc-by-3.0", "cc-by-sa-3.0", "cc-by-nc-3.0", "cc-by-nc-sa-3.0"),
)
SIZES = {1_000: "1K", 10_000: "10K", 100_000: "100K", 1_000_000: "1M", 10_000_000: "10M"}
MEANINGS = {
    "rgb": "the image",
    "depth": "distance from the camera centre along the unit ray; the JSON has its range",
    "zdepth": "depth along the optical axis; the JSON has its range",
    "normal": "(n + 1) / 2 in camera axes",
    "mask": "coverage of the head",
    "latent": "of the stylizer's autoencoder",
}


@dataclass(frozen=True)
class SplitCount:
    """How a split's samples ended, and what holds them."""

    split: str
    shards: int
    ok: int
    failed: int
    megabytes: float


@dataclass(frozen=True)
class Member:
    """A kind of member that all samples of a column have."""

    name: str  # "view_NN.rgb.png"
    count: int  # in a sample
    what: str  # "uint8 [512, 512, 3]: the image"


@dataclass(frozen=True)
class ColumnFacts:
    """What the card says of a column."""

    name: str
    about: str
    splits: list[SplitCount]
    failures: list[tuple[str, int, str]]  # kind, how many, key of the first
    members: list[Member]


def mark_of(collection: Collection) -> str:
    """The line by which a card is known to be of this collection."""
    name = collection.run.path.name if collection.run else collection.name
    return f"{MARK} {name} -->"


def write_card(collection: Collection, licence: str | None, pictures: Sequence[str]) -> str:
    """README.md of a collection; `pictures` are paths beside it."""
    facts = [_look_at(collection, name) for name in collection.columns]
    total = max(sum(s.ok for s in column.splits) for column in facts)
    header = yaml.safe_dump(_header(collection, licence, total), sort_keys=False)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pipeline.datasets", "."),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["cell"] = _escape
    first = facts[0]
    return environment.get_template("card.md.j2").render(
        header=header,
        mark=mark_of(collection),
        name=collection.name,
        licence=licence,
        columns=facts,
        split=hub_split(first.splits[0].split),
        tars=f"{first.name}/{first.splits[0].split}-*.tar",
        pictures=pictures,
        cameras=_describe_cameras(collection),
        metrics=_average(collection),
        measures=MEASURES,
        verified=collection.run is not None,
        provenance=_describe_makers(collection),
    )


def check_splits(collection: Collection) -> None:
    """Raise PipelineError where two splits have one name on the Hub."""
    splits = {shard.split for shards in collection.columns.values() for shard in shards}
    if len(set(map(hub_split, splits))) < len(splits):
        raise PipelineError(
            f"{collection.path}: of the splits {', '.join(sorted(splits))} two have one name on "
            "the Hub, which takes '_' for '-'; rename one, or draw them anew by reshard --split"
        )


def hub_split(split: str) -> str:
    """The name of a split in `datasets`, which knows no hyphen."""
    return split.replace("-", "_")


def _header(collection: Collection, licence: str | None, total: int) -> dict[str, Any]:
    return {
        "license": _licence(licence),
        **({"license_name": licence} if _licence(licence) == "other" else {}),
        "pretty_name": collection.name,
        "size_categories": [size_category(total)],
        "task_categories": ["image-to-image", "image-to-3d"],
        "tags": ["webdataset", "multi-view", "heads", "diffstyle360"],
        "configs": [
            {
                "config_name": column,
                **({"default": True} if number == 0 else {}),
                "data_files": _data_files(collection.splits(column)),
            }
            for number, column in enumerate(collection.columns)
        ],
    }


def _data_files(splits: dict[str, list[Shard]]) -> list[dict[str, str]]:
    return [
        {"split": hub_split(split), "path": f"{s[0].column}/{split}-*-of-{len(s):05d}.tar"}
        for split, s in splits.items()
    ]


def size_category(samples: int) -> str:
    """The Hub's word for a number of samples: ``n<1K``, ``1K<n<10K``, ..., ``n>10M``."""
    above = "n>10M"
    for limit, name in reversed(SIZES.items()):
        if samples >= limit:
            return above
        lower = SIZES.get(limit // 10)
        above = f"{lower}<n<{name}" if lower else f"n<{name}"
    return above


def _licence(text: str | None) -> str:
    if text is None:
        return "unknown"
    return text.lower() if text.lower() in LICENCES else "other"


def _look_at(collection: Collection, column: str) -> ColumnFacts:
    failures: Counter[str] = Counter()
    firsts: dict[str, str] = {}
    splits = []
    for split, shards in collection.splits(column).items():
        rows = read_rows(shards[0].folder, [shard.name for shard in shards])
        bad = rows.filter(pc.not_equal(rows["status"], OK))
        failures.update(bad["status"].to_pylist())
        for status, key in zip(bad["status"].to_pylist(), bad["key"].to_pylist(), strict=True):
            firsts.setdefault(status, key)
        megabytes = sum(shard.commit.bytes for shard in shards) / 1e6
        splits.append(SplitCount(split, len(shards), len(rows) - len(bad), len(bad), megabytes))
    return ColumnFacts(
        name=column,
        about=_about(column),
        splits=splits,
        failures=[(kind, count, firsts[kind]) for kind, count in failures.most_common()],
        members=list(_list_members(_first_sample(collection, column))),
    )


def _about(column: str) -> str:
    stage, _, name = column.partition("-")
    return {
        "render": "identities of the generator from every camera",
        "style": f"the same identities and cameras, by the generator of the style {name}",
        "stylized": f"the same identities and cameras, stylized by DiffStyle360 after {name}",
        "latents": f"the column {name}, encoded by the stylizer's autoencoder",
    }.get(stage, "identities, each from several cameras")


def _first_sample(collection: Collection, column: str) -> dict[str, Any]:
    """The decoded members of a column's first sample; none where all samples failed."""
    for shard in collection.columns[column]:
        opened = Column(shard.folder, [shard.name])
        if opened.keys:
            return opened.read(opened.keys[0])
    return {}


def _list_members(sample: dict[str, Any]) -> Iterator[Member]:
    named: dict[str, list[Any]] = {}
    for suffix, value in sample.items():
        named.setdefault(re.sub(r"_\d\d+\.", "_NN.", suffix), []).append(value)
    for name, values in named.items():
        kind = name.split(".")[1] if name.count(".") == 2 else ""
        if name == "json":
            what = "cameras, ranges of depths, seeds: " + ", ".join(sorted(values[0]))
        else:
            spec = f"{values[0].dtype} {list(values[0].shape)}"
            about = MEANINGS.get(kind)
            if name.startswith("reference_"):
                about = "another identity in the same style"
            what = f"{spec}: {about}" if about else spec
        yield Member(name, len(values), what)


def _describe_cameras(collection: Collection) -> dict[str, Any]:
    """What the first column says of its cameras, and the rig that it was made with."""
    column = next(iter(collection.columns))
    meta = _first_sample(collection, column).get("json", {})
    views = meta.get("views", [])
    known = bool(views) and "cam2world" in views[0]
    rig = collection.columns[column][0].commit.provenance.get("rig") or {}
    described: dict[str, Any] = {"views": len(views), "known": known}
    described["convention"] = meta.get("convention")
    described["rig"] = {key: value for key, value in rig.items() if value is not None}
    if known:
        centres = np.array([view["cam2world"] for view in views])[:, :3, 3]  # [V, 3]
        distances = np.linalg.norm(centres, axis=1)
        described["distance"] = f"{distances.min():.3g} to {distances.max():.3g}"
        described["focal"] = views[0]["intrinsics"][0][0]
    return described


def _average(collection: Collection) -> Means | None:
    """The figures of the published stylized columns; None where nothing was measured."""
    folder = collection.run
    if folder is None or folder.run.stylize is None or not folder.metrics_path.is_file():
        return None
    references = {
        name: reference
        for name, reference in folder.run.stylize.references.items()
        if f"stylized-{name}" in collection.columns
    }
    if not references:
        return None
    try:
        table = pq.read_table(folder.metrics_path)
    except (pa.ArrowException, OSError) as error:
        raise PipelineError(
            f"{folder.metrics_path}: not readable as Parquet; run `diffstyle360 evaluate` again"
        ) from error
    return average(table, label_references(references))


def _describe_makers(collection: Collection) -> list[tuple[str, str]]:
    """Columns, and as JSON what made them; shards that were made alike count once."""
    makers: dict[str, dict[str, None]] = {}
    for column, shards in collection.columns.items():
        for shard in shards:
            made = {k: v for k, v in shard.commit.provenance.items() if k != "column"}
            text = json.dumps(_without_folders(made), sort_keys=True)
            makers.setdefault(text, {})[column] = None
    return [(", ".join(columns), text) for text, columns in makers.items()]


def _without_folders(value: Any) -> Any:
    """The same with the last part alone of every absolute path: folders are nobody's business."""
    if isinstance(value, dict):
        return {key: _without_folders(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_folders(item) for item in value]
    if isinstance(value, str) and Path(value).is_absolute():
        return Path(value).name
    return value


def _escape(text: object) -> str:
    """Text as it is in a cell of a Markdown table."""
    line = " ".join(str(text).split()).replace("\\", "\\\\").replace("|", "\\|")
    return line.replace("&", "&amp;").replace("<", "&lt;")
