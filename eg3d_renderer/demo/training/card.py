"""The model card beside the weights: what was learned from what, how well, and what it is not."""

import csv
import dataclasses
import json
import textwrap
from pathlib import Path
from typing import Any

from PIL import Image

from eg3d_renderer.demo.generator import ProceduralHeads
from eg3d_renderer.demo.training import figures
from eg3d_renderer.demo.training.loop import Settings
from eg3d_renderer.demo.training.truth import CAMERAS
from eg3d_renderer.demo.weights import style_names
from eg3d_renderer.generators import load_demo

CARD, CURVES, SHEET = "README.md", "curves.csv", "heads.webp"
HEADS, VIEWS = 12, 16
COLUMNS = {
    "psnr": "PSNR, dB",
    "psnr_head": "of the head's box, dB",
    "iou": "mask IoU",
    "depth_error": "relative depth error",
    "right_z": "right z over wrong, dB",
    "iris_hue": "hue of irises",
    "hair_hue": "hue of hair",
    "back_ghost": "ghost",
    "sharpness": "sharpness",
}


def write_card(weights: Path, training: Path, settings: Settings) -> None:
    """Measure the weights of that folder and put README.md, curves.csv and heads.webp beside them.

    `training` is where they were trained with `settings`; it receives figures.json and all sheets.
    """
    names = style_names(weights)
    styles = {s: (load_demo(s, "cpu", weights), ProceduralHeads(s)) for s in names}
    looked_at = training / "figures"
    figures.report(styles, looked_at, HEADS, VIEWS)
    measured = json.loads((looked_at / "figures.json").read_text())
    curves = (training / CURVES).read_text()
    with Image.open(looked_at / "styles.png") as sheet:
        sheet.save(weights / SHEET, quality=80, method=6)
    (weights / CURVES).write_text(curves)
    size = sum(path.stat().st_size for path in weights.glob("*.safetensors"))
    parameters = sum(p.numel() for p in styles[names[0]][0].parameters())
    text = describe(settings, list(csv.DictReader(curves.splitlines())), measured, size, parameters)
    (weights / CARD).write_text(text)


def describe(
    settings: Settings,
    curves: list[dict[str, str]],
    measured: dict[str, Any],
    size: int,
    parameters: int,
) -> str:
    """The card: `curves` are the rows of curves.csv, `measured` figures.json, `size` in bytes."""
    styles = measured["styles"]
    head = ["style", *COLUMNS.values()]
    rows = [[style, *(_show(row[name]) for name in COLUMNS)] for style, row in styles.items()]
    table = "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows))
    told = [
        f"{name} {value}"
        for name, value in dataclasses.asdict(settings).items()
        if name not in ("styles", "checkpoint_every")
    ]
    recipe = textwrap.indent(textwrap.fill(", ".join(told) + ".", 98), "  ")
    last = curves[-1]
    return f"""# The demo generator

`--generator demo`, `demo:joker`: a 3D GAN's generator (PanoHead's tri-grid, through the same code
and layout as the official ones) that has learned the package's procedural heads, in {len(styles)}
styles over the same latents. It knows no photographs: it exists so that everything can be run.

- **Size**: {parameters / 1e6:.2f} million parameters; {size / 1e6:.1f} MB in half precision, all
  styles. Images of 128², no super-resolution.
- **Data**: {settings.steps * settings.fresh} procedural heads, each drawn once, seen from {CAMERAS}
  cameras all around by {settings.rays} rays with their depths; a pixel is the mean of 2 x 2 rays.
- **Training**: `make demo-weights` (`python -m eg3d_renderer.demo.training`): regression of colour,
  coverage and depth, without an adversary. `curves.csv` has its course, which ends at
  {last["psnr"]} dB on the rays it learns from (a fifth of them at the eyes). Settings:
{recipe}
- **Licence**: that of the package; nothing of anyone else went in.

![Truth above, generator below, a style a row]({SHEET})

{measured["heads"]} heads of each style that it never saw (seeds from {measured["first_seed"]}),
{measured["views"]} views each, against the supersampled truth
(`python -m eg3d_renderer.demo.training.figures eg3d_renderer/demo/weights OUT --heads {HEADS}`;
the head of that file says what each figure is):

{table}

**Limits.** What is finer than a texel is blurred: lashes, hatching, freckles, the weave of cloth.
Heads are those of the procedural generator and no others; no face of a real person is in it.
"""


def _show(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
