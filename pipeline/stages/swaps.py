"""Swaps: what outputs follow when one thing is exchanged, the style image or the content.

The style's generators render, for each case, an identity in an instance of a style, the same in
another instance, the same in another style, and another identity in the first instance: what the
output should become. Style images show other identities.

    measure            perfect  what it is, as a mean over cases
    style_follows      1        views nearer the other style's truth, of a style image in it
    instance_follows   1        views nearer the other instance's truth, of a style image in it
    identity_follows   1        views nearer the other identity's truth, of its content
    leak               0        how far another lender of the same instance moves the output, in
                                squared error, over how far another content does
"""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache, lru_cache
from typing import Any

import torch

import eg3d_renderer as er
from manifests import RunManifest
from manifests.stylizer import Stylize
from pipeline.console import progress
from pipeline.errors import PipelineError
from pipeline.folders import RunFolder
from pipeline.images import resize, to_model
from pipeline.judges import Pictures
from pipeline.seeds import derive_seed
from pipeline.shards import codecs
from pipeline.shards.files import write_whole
from pipeline.stages.render import column_source, render_seed, rig_labels
from pipeline.stages.stylize import Stylizer
from stylize import Sampling, metrics, stylize_views

MEASURES = ("style_follows", "instance_follows", "identity_follows", "leak")
CONTENT = "render"

Render = Callable[[str, int, int], Pictures]  # an identity of a column in an instance, V views
Lend = Callable[[str, int, int], torch.Tensor]  # the same from the front: a style image [3, S, S]
Paint = Callable[[int, torch.Tensor], torch.Tensor]  # an identity, a style image: [V, 3, S, S]


@dataclass(frozen=True)
class Case:
    """Seeds of identities and instances, and columns of styles; `other_style` None: there is one
    style alone."""

    style: str
    other_style: str | None
    content: int
    other_content: int
    lender: int
    other_lender: int
    instance: int
    other_instance: int


def draw_case(styles: list[str], seed: int, number: int) -> Case:
    """Styles take turns, and so do those that they are exchanged for."""
    column = styles[number % len(styles)]
    others = [style for style in styles if style != column]
    other = others[number // len(styles) % len(others)] if others else None
    names = (
        "content", "other_content", "lender", "other_lender", "instance", "other_instance",
    )  # fmt: skip
    drawn = {name: derive_seed(seed, "swap", number, name) for name in names}
    return Case(column, other, **drawn)


def measure_case(case: Case, render: Render, lend: Lend, paint: Paint) -> dict[str, float]:
    """The measures of one case; nan where it cannot give one."""
    found = dict.fromkeys(MEASURES, math.nan)
    truth = render(case.style, case.content, case.instance)
    image = lend(case.style, case.lender, case.instance)
    output = paint(case.content, image)
    if case.other_style is not None:
        wanted = render(case.other_style, case.content, case.instance)
        other_image = lend(case.other_style, case.lender, case.instance)
        found["style_follows"] = _follows(paint(case.content, other_image), wanted, truth)
    wanted = render(case.style, case.content, case.other_instance)
    if not torch.equal(wanted.images, truth.images):
        other_image = lend(case.style, case.lender, case.other_instance)
        found["instance_follows"] = _follows(paint(case.content, other_image), wanted, truth)
    wanted = render(case.style, case.other_content, case.instance)
    exchanged = paint(case.other_content, image)
    found["identity_follows"] = _follows(exchanged, wanted, truth)
    leaked = paint(case.content, lend(case.style, case.other_lender, case.instance))
    union = torch.maximum(wanted.mask, truth.mask)
    found["leak"] = _distance(leaked, output, union) / _distance(exchanged, output, union)
    return found


def measure_swaps(
    folder: RunFolder, stylizer: Stylizer, cases: int, views: int
) -> list[dict[str, Any]]:
    """A row per case: what was exchanged, and the measures. Writes them to swaps.json as well.

    Identities are drawn afresh, and none of the run's. Outputs are sampled as those of the run's
    first reference. Raises PipelineError where the manifest has no stylize section or no styles, or
    where views do not divide the rig.
    """
    run = folder.run
    if run.stylize is None or not run.styles:
        raise PipelineError("swaps: needs sections `styles` and `stylize` in the run manifest")
    if run.rig.count % views or views % 2:
        raise PipelineError(f"swaps: {views} views do not spread evenly over {run.rig.count}")
    render, lend = open_rendering(run, stylizer, views)
    paint = open_painting(run, run.stylize, stylizer, render)
    styles = [name for name in run.columns if name != CONTENT]
    rows = []
    for number in progress(range(cases), "swaps", cases):
        case = draw_case(styles, run.seed, number)
        rows.append(asdict(case) | measure_case(case, render, lend, paint))
    plain = [{n: None if v != v else v for n, v in row.items()} for row in rows]
    text = json.dumps({"views": views, "cases": plain}, indent=2) + "\n"
    write_whole(folder.swaps_path, text.encode())
    return rows


def open_rendering(run: RunManifest, stylizer: Stylizer, views: int) -> tuple[Render, Lend]:
    """Renders views spread evenly over the run's rig at the stylizer's size, in 8 bits."""
    load = cache(
        lambda column: er.load_generator(
            column_source(run, column), stylizer.device, run.generator.precision
        )
    )
    labels = rig_labels(run, load(CONTENT))[:: run.rig.count // views].to(stylizer.device)
    size = stylizer.model.config.image_size

    def see(cameras: torch.Tensor, column: str, seed: int, instance: int) -> Pictures:
        made = render_seed(run, load(column), cameras, seed, instance)
        images = to_model(codecs.to_uint8(made["image"].cpu()), size)
        return Pictures(images, resize(made["image_mask"].cpu(), size))

    @lru_cache(4)
    def render(column: str, seed: int, instance: int) -> Pictures:
        return see(labels, column, seed, instance)

    def lend(column: str, seed: int, instance: int) -> torch.Tensor:
        return see(labels[:1], column, seed, instance).images[0]

    return render, lend


def open_painting(run: RunManifest, settings: Stylize, stylizer: Stylizer, render: Render) -> Paint:
    first = next(iter(settings.references))
    sampling, kind = Sampling(**settings.sampling(first)), settings.hint_of(first)
    device, hinted = stylizer.device, derive_seed(run.seed, "swap", "hint")

    def paint(content: int, image: torch.Tensor) -> torch.Tensor:
        views = render(CONTENT, content, content).images
        hint = views if kind == "content" else render(CONTENT, hinted, hinted).images
        painted = stylize_views(
            stylizer.model,
            front=views[:1].to(device),
            back=views[len(views) // 2].to(device)[None],
            hint=hint[None].to(device),
            style=image.to(device),
            sampling=sampling,
            seeds=[run.seed],
        )
        return painted[0].cpu().clamp(-1, 1)

    return paint


def summarize(rows: list[dict[str, Any]]) -> dict[str, float]:
    """The mean of each measure over the cases that have it; of `leak`, the median.

    `rows` are those of `measure_swaps`, or of its file, where null is what has no value.
    """
    means = {}
    for name in MEASURES:
        given = (row[name] for row in rows)
        values = torch.tensor([math.nan if v is None else v for v in given], dtype=torch.float64)
        means[name] = float(values.nanmedian() if name == "leak" else values.nanmean())
    return means


def _follows(output: torch.Tensor, wanted: Pictures, before: Pictures) -> float:
    nearer = metrics.nearer_share(
        output, (wanted.images, wanted.mask), [(before.images, before.mask)]
    )
    return float(nearer.nanmean())


def _distance(output: torch.Tensor, other: torch.Tensor, mask: torch.Tensor) -> float:
    square = (output.double() - other.double()).square().mean(1, keepdim=True)
    return float((square * mask).sum() / mask.sum().clamp_min(1e-9))
