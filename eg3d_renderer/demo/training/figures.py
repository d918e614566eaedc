"""What a trained demo generator is worth: figures against the truth, on heads it never saw.

    python -m eg3d_renderer.demo.training.figures WEIGHTS OUT [--heads 24] [--views 16]

writes OUT/figures.json, and sheets of pictures (see `sheets`). Training draws its latents
in another way than from seeds.

    figure         unit  perfect  what it is
    psnr           dB    100      of whole views: the mean of each view's own
    psnr_head      dB    100      the same within the `head_box`
    iou            -     1        of masks above 0.5: the mean over views
    depth_error    -     0        |depth / true depth - 1|: the median where both have a surface
    right_z        dB    large    psnr, less that against the truth of another z
    iris_hue       -     1        `hue_correlation` over heads, seen in front
    hair_hue       -     1
    back_ghost     -     about 1  error on the back of the head, where the face is over elsewhere
    face_behind    -     0        share of the face's contrast that shows on the back of the head
    sharpness      -     1        energy of gradients over the truth's: less is blurred

Identical images count as 100 dB. A figure that the heads at hand cannot give is nan (null in
JSON): right_z of one head, hues of fewer than 3 heads that show them, ghosts without a back view.
The truth is supersampled as its `supersampling` says. Training sees 2 x 2; such a truth is 39 dB
from 4 x 4, whose gradients have 10 % less energy.
"""

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import click
import torch
import torch.nn.functional as F
from torch import Tensor

from eg3d_renderer import cameras
from eg3d_renderer.demo import anatomy
from eg3d_renderer.demo.generator import ProceduralHeads
from eg3d_renderer.demo.heads import Head
from eg3d_renderer.demo.training import sheets
from eg3d_renderer.demo.training.sheets import (
    FACE_Z,
    Views,
    back_of_head,
    facing_back,
    head_box,
    head_places,
    project,
    view,
)
from eg3d_renderer.demo.weights import style_names
from eg3d_renderer.errors import RendererError
from eg3d_renderer.generators import Generator, latents, load_demo

Pair = tuple[Views, Views]  # a head as it is rendered, and in truth
Hues = tuple[complex, complex]  # of a region, as rendered and in truth: see `mean_hue`

FIRST_SEED = 1_000_000
CEILING = 100.0  # dB
SURFACE = 0.02  # head units; a place farther from every part was a miss
FEWEST_PIXELS = 10
FEWEST_HEADS = 3
LEAST_CHROMA = 0.04
DETAIL = 9  # pixels


def measure(
    generator: Generator,
    truth: ProceduralHeads,
    seeds: Sequence[int],
    yaws: int = 16,
    elevation: float = 5.0,
) -> dict[str, float]:
    """The figures of one style, over the heads of `seeds` seen from `yaws` cameras around them."""
    cam = cameras.orbit(yaws, elevation=elevation, **truth.camera)
    z = latents(list(seeds), truth.z_dim)
    renders = [view(generator, row, cam) for row in z.split(1)]
    truths = [view(truth, row, cam) for row in z.split(1)]
    heads = [truth.head(ws) for ws in truth.mapping(z)]
    pairs = list(zip(renders, truths, strict=True))
    box = head_box(cam, truths[0].image.shape[-1])
    places = [head_places(cam, true.depth) for true in truths]
    front = zip(pairs, places, heads, strict=True)
    hues = [region_hues(*pair, place[0], head) for pair, place, head in front]
    back = facing_back(cam)
    return {
        "psnr": _mean([psnr(ours.image, true.image) for ours, true in pairs]),
        "psnr_head": _mean([psnr(ours.image, true.image, box) for ours, true in pairs]),
        "iou": _mean([iou(ours.mask, true.mask) for ours, true in pairs]),
        "depth_error": float(torch.cat([depth_errors(*pair) for pair in pairs]).median()),
        "right_z": right_over_wrong(renders, truths),
        "iris_hue": hue_correlation([iris for iris, _ in hues]),
        "hair_hue": hue_correlation([hair for _, hair in hues]),
        "back_ghost": back_ghost(pairs, places, back),
        "face_behind": face_behind(pairs, places, cam, back),
        "sharpness": sharpness(pairs),
    }


def psnr(image: Tensor, true: Tensor, where: Tensor | None = None) -> Tensor:
    """dB [V] of images [V, 3, R, R] in [0, 1], over the pixels `where` [V, R, R] if it is given."""
    square = (image - true).square().mean(1)  # [V, R, R]
    share = torch.ones_like(square) if where is None else where.to(square.dtype)
    mean = (square * share).sum((1, 2)) / share.sum((1, 2))
    return -10 * mean.clamp_min(10 ** (-CEILING / 10)).log10()


def iou(mask: Tensor, true: Tensor) -> Tensor:
    """Intersection over union [V] of masks [V, R, R], each above 0.5; 1 where both are empty."""
    ours, theirs = mask > 0.5, true > 0.5
    both, either = ((ours & theirs).sum((1, 2)), (ours | theirs).sum((1, 2)))
    return torch.where(either > 0, both / either.clamp_min(1), 1.0)


def depth_errors(render: Views, truth: Views) -> Tensor:
    """|depth / true depth - 1| of every pixel whose masks both are above 0.5, [K].

    Depths count from the camera, 2.7 away: 0.001 is 1.4 mm of a head that is 23 cm high.
    """
    both = (render.mask > 0.5) & (truth.mask > 0.5)
    return (render.depth[both] / truth.depth[both] - 1).abs()


def right_over_wrong(renders: list[Views], truths: list[Views]) -> float:
    """Mean psnr against a head's own truth less that against the next head's, in dB."""
    if len(renders) < 2:
        return math.nan
    wrong = [*truths[1:], truths[0]]
    return _mean(
        [
            psnr(ours.image, right.image) - psnr(ours.image, other.image)
            for ours, right, other in zip(renders, truths, wrong, strict=True)
        ]
    )


def region_hues(
    render: Views, truth: Views, places: Tensor, head: Head
) -> tuple[Hues | None, Hues | None]:
    """Of irises and of hair in the first view, whose pixels see `places` [R, R, 3] in truth.

    The mean of pixels' vectors is their hue weighted by their chroma. The iris is what the true
    eyeball shows within the iris' radius of its axis; hair is what is nearest to the true hair.
    None where the head does not show it: fewer than FEWEST_PIXELS pixels (closed eyes, shaven
    heads, under a hat), a true chroma below LEAST_CHROMA (grey hair); and irises behind glasses.
    """
    x, y, z = places.reshape(-1, 3).T.contiguous()
    parts = anatomy.parts(x, y, z, head)
    nearest = torch.stack(list(parts.values())).amin(0)
    ex, ey, _ = anatomy.eye_frame(x.abs(), y, z, head)
    found: list[Hues | None] = []
    for name in ("eye", "hair"):
        region = torch.zeros_like(x, dtype=torch.bool)
        if name in parts and not (name == "eye" and head.glasses):
            region = (parts[name] == nearest) & (nearest < SURFACE)
        if name == "eye":
            region &= ex.square() + ey.square() < head.iris**2
        ours, theirs = (mean_hue(v.image[0].flatten(1)[:, region]) for v in (render, truth))
        shown = region.sum() >= FEWEST_PIXELS and abs(theirs) >= LEAST_CHROMA
        found.append((ours, theirs) if shown else None)
    return found[0], found[1]


def mean_hue(colours: Tensor) -> complex:
    """Colours [3, N] in [0, 1] -> their mean on the colour circle: red is 1, green at 120 degrees;
    0 where there are none."""
    if colours.shape[1] == 0:
        return 0j
    red, green, blue = colours.double().mean(1).tolist()
    return complex(red - (green + blue) / 2, math.sqrt(0.75) * (green - blue))


def hue_correlation(hues: list[Hues | None]) -> float:
    """Circular correlation of rendered and true hues over the heads that show them.

    Fisher and Lee, "A correlation coefficient for circular data", Biometrika 1983: 1 where hues
    differ by a rotation, 0 where they have nothing to do with each other, -1 for a mirrored circle.
    It needs no mean hue, which all the colours of the rainbow have not.
    """
    shown = [hue for hue in hues if hue is not None]
    if len(shown) < FEWEST_HEADS:
        return math.nan
    angles = torch.tensor(shown, dtype=torch.complex128).angle()  # [heads, 2]
    render, truth = (torch.sin(a[:, None] - a[None]) for a in angles.unbind(1))
    spread = (render.square().sum() * truth.square().sum()).sqrt()
    return float((render * truth).sum() / spread) if spread > 1e-12 else math.nan


def back_ghost(pairs: list[Pair], places: list[Tensor], back: Tensor) -> float:
    """Mean squared error a pixel where a face would show through, over that of the rest of the back
    of the head: the geometric mean over heads; 1 where there is no error at all.

    It tells where the error is, not what it is: napes, collars and hats move it by a factor of two.
    """
    logs = []
    for (render, truth), place in zip(pairs, places, strict=True):
        error = (render.image - truth.image)[back].square().mean(1)
        inside, rest = (error[part] for part in back_of_head(truth.mask[back], place[back]))
        if len(inside) and len(rest):
            logs.append((_positive(inside.mean()) / _positive(rest.mean())).log())
    return float(torch.stack(logs).mean().exp()) if logs else math.nan


def face_behind(pairs: list[Pair], places: list[Tensor], cam: Tensor, back: Tensor) -> float:
    """The share of the face's contrast that shows on the back of the head: 0 is no ghost, 1 is a
    second face.

    The coefficient of the true front view, looked at along z through the head, in a regression of
    the error of back views; both without what is blurred over DETAIL pixels, which light and hair
    share. The first camera is in front.
    """
    products, squares = torch.zeros(2, dtype=torch.float64)
    for (render, truth), place in zip(pairs, places, strict=True):
        errors, front = detail((render.image - truth.image)[back]), detail(truth.image[:1])
        regions, _ = back_of_head(truth.mask[back], place[back])
        for error, through, region in zip(errors, place[back], regions, strict=True):
            points = through[region] * torch.tensor([1.0, 1, 0]) + torch.tensor([0, 0, FACE_Z])
            where = torch.stack(project(cam[:1], points)[:2], dim=-1) * 2 - 1  # [1, N, 2]
            face = F.grid_sample(front, where[None], align_corners=False)[0, :, 0]  # [3, N]
            products += (face * error[:, region]).sum()
            squares += face.square().sum()
    return float(products / squares) if squares > 0 else math.nan


def detail(images: Tensor) -> Tensor:
    """Images [V, 3, R, R] less their means over DETAIL x DETAIL pixels."""
    return images - F.avg_pool2d(images, DETAIL, 1, DETAIL // 2, count_include_pad=False)


def sharpness(pairs: list[Pair]) -> float:
    """Squared differences of neighbouring pixels that the true head wholly covers, over the
    truth's; all heads and views together."""
    ours, theirs = torch.zeros(2, dtype=torch.float64)
    for render, truth in pairs:
        covered = truth.mask == 1
        ours = ours + gradient_energy(render.image, covered)
        theirs = theirs + gradient_energy(truth.image, covered)
    return float(_positive(ours) / _positive(theirs))


def gradient_energy(image: Tensor, where: Tensor) -> Tensor:
    """Squared differences of neighbours in images [V, 3, R, R] both `where` [V, R, R], summed."""
    total = torch.zeros((), dtype=torch.float64)
    for axis in (-1, -2):
        size = where.shape[axis] - 1
        both = where.narrow(axis, 0, size) & where.narrow(axis, 1, size)
        step = image.diff(dim=axis).square().sum(1)
        total += step[both].double().sum()
    return total


def _positive(energy: Tensor) -> Tensor:
    return energy.clamp_min(1e-12)


def _mean(values: list[Tensor]) -> float:
    return float(torch.cat(values).double().mean())


def report(
    styles: Mapping[str, tuple[Generator, ProceduralHeads]], out: Path, heads: int, views: int
) -> None:
    """Writes figures.json, a row of figures a style, and the sheets; `styles` are generators with
    their truth."""
    out.mkdir(parents=True, exist_ok=True)
    seeds = range(FIRST_SEED, FIRST_SEED + heads)
    table = {}
    for style, pair in styles.items():
        figures = measure(*pair, seeds, views)
        row = {n: None if math.isnan(v) else float(f"{v:.4g}") for n, v in figures.items()}
        table[style] = row
        click.echo(f"{style} {json.dumps(row)}")
        sheets.sheet(*pair, seeds[:6], out / f"{style}.png")
    sheets.sheet_of_styles(styles, seeds[:3], out / "styles.png")
    settings = {"first_seed": FIRST_SEED, "heads": heads, "views": views}
    written = json.dumps(settings | {"styles": table}, indent=2)
    (out / "figures.json").write_text(written + "\n")


@click.command(help="Figures and sheets of the trained generator in the folder WEIGHTS.")
@click.argument("weights", type=click.Path(path_type=Path, file_okay=False))
@click.argument("out", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--heads", type=click.IntRange(min=1), default=24, show_default=True, help="Of each style."
)
@click.option(
    "--views", type=click.IntRange(min=1), default=16, show_default=True, help="Of each head."
)
def main(weights: Path, out: Path, heads: int, views: int) -> None:
    try:
        names = style_names(weights)
        styles = {s: (load_demo(s, "cpu", weights), ProceduralHeads(s)) for s in names}
        report(styles, out, heads, views)
    except (RendererError, OSError) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
