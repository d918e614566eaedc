"""Report: pictures, figures and counts of a run in one HTML file that opens offline."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pyarrow.parquet as pq
import yaml

from pipeline.counts import count_column
from pipeline.errors import PipelineError
from pipeline.folders import RunFolder
from pipeline.references import open_reference
from pipeline.shards.files import write_whole
from pipeline.shards.reader import Column, read_clip
from pipeline.shards.records import list_records, read_commit
from pipeline.stages import pictures
from pipeline.stages.averages import MEASURES, SIDES, Means, average, label_references

TURNED, TURNED_FRAMES = 3, 48  # identities on turntables, frames of one
SHEET_ROWS, SHEET_VIEWS = 6, 8
COMPARED = 2  # identities side by side, per reference


def report_run(folder: RunFolder) -> None:
    """Write `report.html`, and its pictures as files of their own below `pictures/`.

    Raises PipelineError where the run is not verified yet.
    """
    page = open_template("report.html.j2", folder.verified_path).render(
        run=folder.run,
        name=folder.path.name,
        digest=folder.run.digest(),
        manifest=yaml.safe_dump(folder.run.model_dump(mode="json"), sort_keys=False),
        resolution=_resolution(folder),
        counts=_count(folder),
        turntables=_turn(folder),
        sheets=_sheets(folder),
        comparisons=_compare(folder),
        metrics=_average(folder),
        measures=MEASURES,
        sides=SIDES,
        losses=_plot_losses(folder),
        provenance=list_makers([folder.column(name) for name in _columns(folder)]),
    )
    write_whole(folder.report_path, page.encode())


def open_template(name: str, verified: Path) -> jinja2.Template:
    """A page of the package. Raises PipelineError where `verified`, a run's mark, is not there."""
    if not verified.is_file():
        raise PipelineError(f"{verified}: not there; run `diffstyle360 verify` first")
    return jinja2.Environment(
        loader=jinja2.PackageLoader("pipeline", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template(name)


def _columns(folder: RunFolder) -> tuple[str, ...]:
    return (*folder.run.columns, *folder.run.stylized_columns)


def _count(folder: RunFolder) -> list[dict[str, Any]]:
    """A row per column: how its samples ended, its size, and how fast it was made."""
    rows = []
    for name in _columns(folder):
        column = folder.column(name)
        count = count_column(column)
        commits = [read_commit(path) for path in column.glob("*.parquet")]
        rows.append(
            {
                "column": name,
                "shards": len(commits),
                "samples": count.total,
                "ok": count.ok,
                "failed": count.failed,
                "failures": count.summary(),
                "megabytes": sum(commit.bytes for commit in commits) / 1e6,
                "views_per_second": count.ok * folder.run.rig.count / max(count.seconds, 1e-9),
            }
        )
    return rows


def _resolution(folder: RunFolder) -> int | None:
    """Of the rendered images; None where every sample failed."""
    rendered = Column(folder.column("render"))
    if not rendered.keys:
        return None
    return rendered.read(rendered.keys[0], ["json"])["json"]["resolution"]


def _shown_keys(folder: RunFolder, wanted: int) -> list[str]:
    """Identities that have all columns, of the stylized split if there is one."""
    present = Column(folder.column("render")).keys
    for name in _columns(folder):
        there = set(Column(folder.column(name)).keys)
        present = [key for key in present if key in there]
    return present[:wanted]


def _pairs(folder: RunFolder) -> list[tuple[str, str | None, str | None]]:
    """Title, rendered column and stylized column of all there is to show, the content first."""
    references = folder.run.stylize.references if folder.run.stylize else {}
    pairs: list[tuple[str, str | None, str | None]] = [("content", "render", None)]
    for style in folder.run.styles:
        made = [name for name, reference in references.items() if reference.style == style]
        truth = f"style-{style}"
        pairs += [(name, truth, f"stylized-{name}") for name in made] or [(style, truth, None)]
    images = [name for name, reference in references.items() if reference.image]
    return pairs + [(name, None, f"stylized-{name}") for name in images]


def _turn(folder: RunFolder) -> dict[str, Any]:
    """Turntables: the content and each style as rendered, below them what the stylizer made.

    Each is saved as an animation; the page turns the same frames under the pointer.
    """
    pairs = _pairs(folder)
    if not folder.run.stylize:
        pairs = [(title, rendered, None) for title, rendered, _ in pairs]
    frames_shown = pictures.spread(folder.run.rig.count, TURNED_FRAMES)
    tables = []
    for key in _shown_keys(folder, TURNED):
        blank = np.full_like(_views(folder, "render", key), pictures.PAPER)
        rows = [row for row in ([pair[i] for pair in pairs] for i in (1, 2)) if any(row)]
        seen = [_views(folder, column, key) if column else blank for row in rows for column in row]
        frames = np.split(pictures.strips(seen), len(rows), axis=2)  # of a row each, in one size
        turned = np.concatenate(frames, axis=1)[frames_shown]  # [V, H, W, 3]
        _keep(folder, f"turntable-{key}", pictures.encode_turntable(turned))
        tables.append(
            {
                "key": key,
                "frames": len(turned),
                "height": turned.shape[1],
                "width": turned.shape[2],
                "uri": pictures.to_uri(pictures.encode_webp(np.concatenate(list(turned)))),
            }
        )
    return {"titles": [title for title, _, _ in pairs], "tables": tables}


def _sheets(folder: RunFolder) -> list[dict[str, str]]:
    """A contact sheet per column: identities down, views across."""
    sheets = []
    for name in _columns(folder):
        column = Column(folder.column(name))
        if column.keys:
            sheet = pictures.column_sheet(column, SHEET_ROWS, SHEET_VIEWS)
            uri = _keep(folder, f"sheet-{name}", pictures.encode_webp(sheet))
            sheets.append({"column": name, "uri": uri})
    return sheets


def _compare(folder: RunFolder) -> list[dict[str, str]]:
    """Per reference: content, style image, then truth over output at front, side and back."""
    if folder.run.stylize is None:
        return []
    count = folder.run.rig.count
    views = sorted({0, count // 8, count // 4, count // 2, count - max(1, count // 8)})
    comparisons = []
    for title, rendered, stylized in _pairs(folder)[1:]:
        if stylized is None:
            continue
        name = stylized.removeprefix("stylized-")
        style_of = open_reference(folder, name)
        rows = []
        for key in _shown_keys(folder, COMPARED):
            content, outputs = (_views(folder, c, key) for c in ("render", stylized))
            blank = np.full_like(content[0], pictures.PAPER)
            truth = [blank] * len(views)
            if rendered is not None:
                truth = list(_views(folder, rendered, key)[views])
            [style] = pictures.thumbnails(style_of(key)[None])
            rows.append([content[0], style, *truth])
            rows.append([blank, blank, *outputs[views]])
        webp = pictures.encode_webp(pictures.contact_sheet(rows))
        uri = _keep(folder, f"compare-{name}", webp)
        comparisons.append({"title": title, "uri": uri})
    return comparisons


def _views(folder: RunFolder, column: str, key: str) -> np.ndarray:
    """All views of one identity as they are shown, [V, H, W, 3]."""
    clip = read_clip(Column(folder.column(column)), key, range(folder.run.rig.count))
    return pictures.thumbnails(clip)


def _keep(folder: RunFolder, name: str, webp: bytes) -> str:
    """Save a picture as a file of its own, and give it as a data URI."""
    path = folder.path / "pictures" / f"{name}.webp"
    path.parent.mkdir(exist_ok=True)
    write_whole(path, webp)
    return pictures.to_uri(webp)


def _average(folder: RunFolder) -> Means | None:
    """The means of the metrics; None where nothing was stylized."""
    if folder.run.stylize is None or not folder.metrics_path.is_file():
        return None
    groups = label_references(folder.run.stylize.references)
    return average(pq.read_table(folder.metrics_path), groups)


def _plot_losses(folder: RunFolder) -> dict[str, Any] | None:
    """The fine-tune's loss over steps as the points of an SVG polyline, 1000 x 200."""
    path = folder.checkpoints / "loss.csv"
    if not path.is_file():
        return None
    with path.open(newline="") as file:
        rows = [(int(row["step"]), float(row["loss"])) for row in csv.DictReader(file)]
    steps, losses = np.array(rows).T
    window = max(1, len(losses) // 20)
    smooth = np.convolve(np.pad(losses, (window - 1, 0), "edge"), np.ones(window) / window, "valid")
    top = float(np.quantile(losses, 0.99)) or 1.0
    x = 1000 * (steps - steps[0]) / max(1, steps[-1] - steps[0])

    def line(values: np.ndarray) -> str:
        y = 200 * (1 - np.minimum(values / top, 1))
        return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))

    return {
        "raw": line(losses),
        "smooth": line(smooth),
        "top": top,
        "steps": int(steps[-1]) + 1,
        "first": float(smooth[min(window, len(smooth) - 1)]),
        "last": float(smooth[-1]),
    }


def list_makers(columns: Sequence[Path]) -> list[dict[str, str]]:
    """What made each column, as JSON; shards that were made alike count once."""
    lines: dict[str, set[str]] = {}
    for column in columns:
        for path in list_records(column):
            made = {k: v for k, v in read_commit(path).provenance.items() if k != "column"}
            lines.setdefault(json.dumps(made, sort_keys=True), set()).add(column.name)
    return [{"columns": ", ".join(sorted(names)), "made": made} for made, names in lines.items()]
