"""The means of `metrics.parquet` that people read: per style image and method, and by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from manifests.stylizer import Reference
from pipeline.stages.measures import BASELINES, ON_HINT, OURS, TRUTH

MEASURES = {  # column of metrics.parquet: title and how to read it
    "psnr": ("PSNR", "dB against the truth, higher is nearer"),
    "ssim": ("SSIM", "against it, 1 is the truth"),
    "lpips": ("LPIPS", "against it, 0 is the truth"),
    "sharpness": ("sharp", "gradient energy over the truth's, 1 is as sharp"),
    "style_distance": ("style", "sliced Wasserstein distance to the style image, 0 is best"),
    "clip": ("CLIP-I", "cosine to the style image"),
    "csd": ("CSD", "style cosine to it"),
    "own_style": ("own style", "share of the identity's other styles that are farther off"),
    "own_identity": ("own identity", "share of other identities in the style that are farther off"),
    "identity": ("ArcFace", "cosine to the content's face"),
    "leakage": ("leak", "cosine to the style image's face, less the truth's"),
    "content_lpips": ("LPIPS to content", "0 is the content"),
    "silhouette": ("outline", "IoU of what is not white with the content's mask"),
    "spill": ("spill", "share of it outside the truth's mask"),
    "depth_agreement": ("depth", "share of the content's depth that the style keeps"),
    "consistency": ("warp", "warp error between neighbouring views over the truth's"),
    "step": ("step", "squared error between neighbouring views as they are"),
    "seam": ("seam", "error from the last view to the first over that elsewhere, 1 is no seam"),
    "fid": ("FID", "to all views of the truth"),
    "kid": ("KID", "to all views of the truth"),
    "artfid": ("ArtFID", "(1 + LPIPS to content) (1 + FID)"),
}
BY_SIDE = ("psnr", "ssim", "lpips", "csd", "own_style", "own_identity", "silhouette")
SIDES = {"front": 45.0, "side": 135.0, "back": 180.0}  # up to how many degrees from the front


@dataclass
class Line:
    """The means of one method; a measure without a value is None."""

    label: str
    ours: bool
    values: list[float | None]
    by_side: list[list[float | None]]  # of each of `Means.sided`, by SIDES


@dataclass
class Means:
    """All that was measured: the lines of each group of references with one style image."""

    measures: list[str]
    sided: list[str]
    groups: list[tuple[str, list[Line]]]


def average(table: pa.Table, groups: Sequence[tuple[str, dict[str, str]]]) -> Means:
    """Means over the views of an identity, then over the identities.

    A group is a title, and its references with the label of each one's output; the baselines of
    the first stand above them. Measures that nothing has a value for are left out.
    """
    measures = [name for name in MEASURES if table[name].null_count < len(table)]
    sided = [name for name in BY_SIDE if name in measures]
    distance = pc.abs(table["yaw"])
    side = pc.if_else(
        pc.less_equal(distance, SIDES["front"]),
        "front",
        pc.if_else(pc.less_equal(distance, SIDES["side"]), "side", "back"),
    )
    whole = _means(table, ["reference", "method"], measures)
    parts = _means(table.append_column("side", side), ["reference", "method", "side"], sided)
    listed = []
    for title, references in groups:
        lines: list[Line] = []
        for reference, label in references.items():
            for method in [*([] if lines else [TRUTH, *BASELINES]), ON_HINT, OURS]:
                if (reference, method) not in whole:
                    continue
                values = whole[reference, method]
                sides = [parts.get((reference, method, side), {}) for side in SIDES]
                lines.append(
                    Line(
                        label=label if method == OURS else method,
                        ours=method == OURS,
                        values=[values[name] for name in measures],
                        by_side=[[means.get(name) for means in sides] for name in sided],
                    )
                )
        listed.append((title, lines))
    return Means(measures, sided, listed)


def label_references(references: dict[str, Reference]) -> list[tuple[str, dict[str, str]]]:
    """The groups of `average` for a manifest's references: one style image each."""
    groups = []
    for names in group_references(references):
        reference = references[names[0]]
        labels = {name: _describe(name, references[name], len(names) > 1) for name in names}
        groups.append((reference.style or names[0], labels))
    return groups


def group_references(references: dict[str, Reference]) -> list[list[str]]:
    """Names of references with the same style image; they differ in their dials alone."""
    groups: dict[tuple[Any, Any], list[str]] = {}
    for name, reference in references.items():
        groups.setdefault((reference.style, reference.image), []).append(name)
    return list(groups.values())


def as_text(means: Means) -> str:
    """The lines as a table for a terminal."""
    rows = [["", *(MEASURES[name][0] for name in means.measures)]]
    for title, lines in means.groups:
        rows += [[f"{title}: {line.label}", *map(_number, line.values)] for line in lines]
    columns = list(zip(*rows, strict=True))
    first = max(map(len, columns[0]))
    padded = [[text.ljust(first) for text in columns[0]]]
    padded += [[text.rjust(max(map(len, column))) for text in column] for column in columns[1:]]
    return "\n".join("  ".join(row).rstrip() for row in zip(*padded, strict=True))


def _means(
    table: pa.Table, by: list[str], measures: Sequence[str]
) -> dict[tuple[str, ...], dict[str, float | None]]:
    """Means over views, then over identities, of every group, in the order of the table."""
    for keys in ([*by, "key"], by):
        table = table.group_by(keys, use_threads=False).aggregate([(m, "mean") for m in measures])
        table = table.rename_columns([name.removesuffix("_mean") for name in table.column_names])
    return {
        tuple(row[name] for name in by): {name: row[name] for name in measures}
        for row in table.to_pylist()
    }


def _describe(name: str, reference: Reference, several: bool) -> str:
    dials = []
    if reference.presence is not None:
        dials.append(f"presence {reference.presence:g}")
    if reference.temperature is not None:
        dials.append(f"temperature {reference.temperature:g}")
    if reference.hint is not None:
        dials.append(f"hint {reference.hint}")
    if reference.gated is not None:
        dials.append("gated" if reference.gated else "no gate")
    label = f"{OURS}, {name}" if several or dials else OURS
    return f"{label} ({', '.join(dials)})" if dials else label


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
