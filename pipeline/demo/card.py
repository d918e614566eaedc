"""The model card beside the stylizer in the package: what it learned from, how well, its limits."""

import csv
import io
import json
import textwrap
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import numpy as np
import pyarrow.parquet as pq

from pipeline.demo.phases import PHASES, settings
from pipeline.folders import RunFolder
from pipeline.references import open_reference
from pipeline.shards.files import write_whole
from pipeline.shards.reader import Column, read_clip
from pipeline.stages import pictures
from pipeline.stages.averages import Line, Means, average, label_references
from pipeline.stages.swaps import summarize
from stylize import DiffStyle360

CARD, CURVES, SHEET = "README.md", "curves.csv", "sheet.webp"
AVERAGED = 50  # steps in a row of the curves
SHOWN = 8  # views on the sheet
MEASURES = {
    "psnr": "PSNR, dB",
    "sharpness": "sharpness",
    "style_distance": "style distance",
    "own_style": "own style",
    "own_identity": "own identity",
    "consistency": "warp",
    "seam": "seam",
}


def write_card(trained: RunFolder, figures: RunFolder, export: Path) -> None:
    """Put README.md, curves.csv and sheet.webp beside the weights in `export`.

    `trained` holds the phases; `figures` is a finished run with its swaps, made with those weights.
    """
    write_whole(export / CURVES, read_curves(trained).encode())
    write_whole(export / SHEET, pictures.encode_webp(draw_sheet(figures), quality=80))
    assert figures.run.stylize is not None
    means = average(
        pq.read_table(figures.metrics_path), label_references(figures.run.stylize.references)
    )
    swaps = summarize(json.loads(figures.swaps_path.read_text())["cases"])
    write_whole(export / CARD, describe(trained, figures, means, swaps, export).encode())


def read_curves(trained: RunFolder) -> str:
    """The losses of all phases as CSV, a row the mean of some steps."""
    sink = io.StringIO()
    table = csv.writer(sink, lineterminator="\n")
    table.writerow(["phase", "steps", "denoising", "seconds"])
    for phase in PHASES:
        with (trained.path / phase / "finetune" / "loss.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        for first in range(0, len(rows), AVERAGED):
            some = rows[first : first + AVERAGED]
            loss = fmean(float(row["denoising"]) for row in some)
            seconds = sum(float(row["seconds"]) for row in some)
            table.writerow([phase, first + len(some), f"{loss:.5g}", f"{seconds:.1f}"])
    return sink.getvalue()


def draw_sheet(figures: RunFolder) -> np.ndarray:
    """Views of one identity, and below, a style image a row, what the stylizer made of it."""
    assert figures.run.stylize is not None
    views = pictures.spread(figures.run.rig.count, SHOWN)
    content = Column(figures.column("render"))
    key = content.keys[0]
    plain = list(read_clip(content, key, views))
    rows = [[np.full_like(plain[0], pictures.PAPER), *plain]]
    for style in figures.run.styles:
        made = read_clip(Column(figures.column(f"stylized-{style}")), key, views)
        rows.append([open_reference(figures, style)(key), *made])
    return pictures.contact_sheet(rows)


def describe(
    trained: RunFolder, figures: RunFolder, means: Means, swaps: dict[str, float], export: Path
) -> str:
    """The card's text."""
    finetune, stylize = trained.run.finetune, figures.run.stylize
    assert finetune is not None
    assert stylize is not None
    config = DiffStyle360.from_pretrained(export).config
    learned = finetune.styles
    unseen = " and ".join(style for style in figures.run.styles if style not in learned)
    paragraphs = [
        """`diffstyle360 stylize` without `--model`, and `demo` for a stylizer in manifests:
        DiffStyle360 at a small size, through the same code as the published one. It knows the heads
        of the demo generator and no photographs: it exists so that everything can be run.""",
        f"""- **Size**: {_size(export)}. Images of {config.image_size}², as {config.latent_factor} x
        {config.latent_factor} blocks of pixels, without an autoencoder.""",
        f"""- **Data**: {trained.run.count("train")} heads of the demo generator from
        {trained.run.rig.count} sides, plain and in {len(learned)} styles ({", ".join(learned)}),
        each head in its own instance of a style; {_recoloured(trained)} of the clips are
        recoloured.""",
        f"""- **Training**: `make demo-weights` (`manifests/runs/demo-weights.yaml` and
        `pipeline/demo/`). {_phases(trained, config.image_size)}. Rates fall to nothing in each;
        `curves.csv` has its course.""",
        "- **Licence**: that of the package; nothing of anyone else went in.",
        f"![A head, and a row for each style image on the left]({SHEET})",
        f"""{figures.run.count(stylize.split)} heads in instances that it never saw,
        {figures.run.rig.count} views each, {stylize.steps} steps (`snakemake --cores all --config
        manifest=manifests/runs/demo-figures.yaml`; the run's report says what each figure is). Of
        {unseen or "no style"} it saw nothing at all.""",
        _table(means),
        f"""Swaps (`diffstyle360 swaps manifests/runs/demo-figures.yaml`): the output is nearer the
        truth of another style image in {swaps["style_follows"]:.0%} of the views, of another
        instance of the style in {swaps["instance_follows"]:.0%}, of another content in
        {swaps["identity_follows"]:.0%}; another person in the style image moves it
        {swaps["leak"]:.2g} times as far as another content does.""",
        """**Limits.** What is finer than a few pixels is smoothed: hatching, fur, the edges of
        make-up. Of a style unlike those it learned little but the colours arrives. The white around
        a head is tinted a little. Heads are those of the demo generator; a photograph is nothing
        that it knows.""",
    ]
    filled = [text if text.startswith(("|", "!")) else _fill(text) for text in paragraphs]
    bullets = "\n".join(filled[1:5])
    return "\n\n".join(["# The demo stylizer", filled[0], bullets, *filled[5:]]) + "\n"


def _size(export: Path) -> str:
    parameters = sum(p.numel() for p in DiffStyle360.from_pretrained(export).parameters())
    megabytes = (export / "model.safetensors").stat().st_size / 1e6
    return f"{parameters / 1e6:.1f} million parameters; {megabytes:.1f} MB in half precision"


def _recoloured(trained: RunFolder) -> str:
    """The share of recoloured clips, of the phases that see a style."""
    shares = {of.recolour for of in (settings(trained, phase) for phase in PHASES) if of.plain < 1}
    return " to ".join(f"{share:.0%}" for share in sorted({min(shares), max(shares)}))


def _phases(trained: RunFolder, image_size: int) -> str:
    told = []
    for phase in PHASES:
        wanted = settings(trained, phase)
        told.append(
            f"{phase}: {wanted.steps} steps of {wanted.batch} x {wanted.views} views of "
            f"{wanted.resolution or image_size} px"
        )
    return "; ".join(told)


def _fill(text: str) -> str:
    indent = "  " if text.startswith("- ") else ""
    return textwrap.fill(" ".join(text.split()), 99, subsequent_indent=indent)


def _table(means: Means) -> str:
    names = [name for name in MEASURES if name in means.measures]
    rows = [["", *(MEASURES[name] for name in names)], ["---"] * (len(names) + 1)]
    for title, lines in means.groups:
        rows += [[_name(title, line), *_values(means, line, names)] for line in lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _name(title: str, line: Line) -> str:
    return f"**{title}: {line.label}**" if line.ours else f"{title}: {line.label}"


def _values(means: Means, line: Line, names: Sequence[str]) -> list[str]:
    values = dict(zip(means.measures, line.values, strict=True))
    return ["–" if (v := values[name]) is None else f"{v:.3g}" for name in names]
