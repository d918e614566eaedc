"""What is odd in a column's quality: flags with their thresholds, and the worst few of each."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset

from pipeline.datasets.columns import list_shards
from pipeline.datasets.near import PAIR_LIMIT, TooManyPairs, hash_spectra, near_pairs
from pipeline.datasets.quality import QUALITY, quality_path

WORST = 5  # shown of each flag
MEASURES = "coverage", "luma", "dark", "bright", "sharpness"
SMALL, LARGE = 0.02, 0.98  # coverage: hardly a head, nothing but head
BLACK, WHITE = 0.05, 0.97  # mean luma
CLIPPED = 0.5  # share of the head at black and white together
BLURRED = 0.1  # of the column's median sharpness


@dataclass(frozen=True)
class Flag:
    """Views, or pairs of identities, that somebody should look at."""

    title: str  # "dark: mean luma of the head below 0.05"
    count: int
    worst: list[str]  # "train-00000042 view_03 (0.031)"


@dataclass(frozen=True)
class Quality:
    """The findings of a column."""

    column: str
    identities: int
    views: int
    spreads: dict[str, tuple[float, float, float]]  # smallest, median and largest of a measure
    flags: list[Flag]


def find_odd(column: Path, near: int) -> Quality:
    """The findings of a column that was examined; fronts within `near` bits are near duplicates."""
    paths = [quality_path(column, name) for name in list_shards(column)]
    data = pyarrow.dataset.dataset(paths, schema=QUALITY, format="parquet")
    table = data.to_table(columns=[name for name in QUALITY.names if name != "spectrum"])
    spreads = {}
    for name in MEASURES:
        if len(values := table[name].drop_null()):
            ends = pc.min_max(values).as_py()
            middle = pc.approximate_median(values).as_py()
            spreads[name] = (ends["min"], middle, ends["max"])
    fronts = data.to_table(
        columns=["key", "split", "spectrum"], filter=pc.field("spectrum").is_valid()
    )
    return Quality(
        column=column.resolve().name,
        identities=pc.count_distinct(table["key"]).as_py(),
        views=len(table) - table["view"].null_count,
        spreads=spreads,
        flags=[*_flag_views(table, spreads), _flag_pairs(fronts, near)],
    )


def as_text(quality: Quality) -> str:
    """The findings as lines for a terminal."""
    lines = [f"{quality.column}: {quality.identities} identities, {quality.views} views looked at"]
    for name, (low, middle, high) in quality.spreads.items():
        lines.append(f"  {name:<10} {low:.3g} / {middle:.3g} / {high:.3g} (min / median / max)")
    for flag in quality.flags:
        lines.append(f"  {flag.title}: {flag.count or 'none'}")
        lines += [f"    {one}" for one in flag.worst]
    return "\n".join(lines)


def _flag_views(table: pa.Table, spreads: dict[str, tuple[float, float, float]]) -> Iterator[Flag]:
    yield _flag(table, "does not decode", pc.not_equal(table["error"], ""), "error")
    cover, luma = table["coverage"], table["luma"]
    limits = [
        (f"hardly a head: coverage below {SMALL}", pc.less(cover, SMALL), "coverage"),
        (f"nothing but head: coverage above {LARGE}", pc.greater(cover, LARGE), "coverage"),
        (f"dark: mean luma below {BLACK}", pc.less(luma, BLACK), "luma"),
        (f"bright: mean luma above {WHITE}", pc.greater(luma, WHITE), "luma"),
    ]
    clipped = pc.add(table["dark"], table["bright"])
    table = table.append_column("clipped", clipped)
    title = f"clipped: more than {CLIPPED} of the head black or white"
    limits.append((title, pc.greater(clipped, CLIPPED), "clipped"))
    if "sharpness" in spreads:
        limit = BLURRED * spreads["sharpness"][1]
        title = f"blurred: sharpness below {limit:.3g}, {BLURRED} of the median"
        limits.append((title, pc.less(table["sharpness"], limit), "sharpness"))
    for title, odd, measure in limits:
        yield _flag(table, title, odd, measure, "above" in title or measure == "clipped")
    for state in ("constant", "non_finite"):
        title = f"depth is {state.replace('_', '-')}"
        yield _flag(table, title, pc.equal(table["depth"], state), "depth")


def _flag(
    table: pa.Table, title: str, odd: pa.ChunkedArray, measure: str, largest: bool = False
) -> Flag:
    found = table.filter(odd)
    if measure not in ("error", "depth"):
        found = found.sort_by([(measure, "descending" if largest else "ascending")])
    worst = []
    for row in found.slice(0, WORST).to_pylist():
        view = "" if row["view"] is None else f" view_{row['view']:02d}"
        value = row[measure]
        said = value if isinstance(value, str) else f"{value:.3g}"
        worst.append(f"{row['key']}{view} ({said})")
    return Flag(title, len(found), worst)


def _flag_pairs(fronts: pa.Table, near: int) -> Flag:
    spectra = fronts["spectrum"].combine_chunks().flatten().to_numpy().reshape(-1, 64)
    title = f"near duplicates: pairs of fronts within {near} of 64 bits"
    try:
        pairs, distances = near_pairs(hash_spectra(spectra), near)
    except TooManyPairs as error:
        return Flag(title, PAIR_LIMIT, [str(error)])
    keys, splits = fronts["key"].to_pylist(), fronts["split"].to_pylist()
    worst = [
        f"{keys[i]} and {keys[j]} ({distance} bits)"
        for (i, j), distance in zip(pairs[:WORST], distances[:WORST], strict=True)
    ]
    names = np.unique(splits, return_inverse=True)[1]
    across = int((names[pairs[:, 0]] != names[pairs[:, 1]]).sum())
    return Flag(f"{title}, {across} across splits", len(pairs), worst)
