"""Hair as signed distances: haircuts, brows, beards."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import Tensor

from eg3d_renderer.demo.distances import (
    capsule,
    carve,
    ellipsoid,
    length,
    number,
    smooth_max,
    smooth_min,
)

if TYPE_CHECKING:
    from eg3d_renderer.demo.heads import Head

HAIRCUTS = ("shaven", "curly", "short", "bun", "parted", "long", "bob", "ponytail")


def hair(
    x: Tensor, ax: Tensor, y: Tensor, z: Tensor, scalp: Tensor, head: "Head"
) -> dict[str, Tensor]:
    """The haircut's distance [N] over the distance to the `scalp`; nothing for a shaven head."""
    if head.haircut == "shaven":
        return {}
    d = CUTS[head.haircut](x, ax, y, z, scalp, head)
    if head.hat != "none":
        d = smooth_max(d, y - number(0.5), 0.05)
    return {"hair": d}


def short(x: Tensor, ax: Tensor, y: Tensor, z: Tensor, scalp: Tensor, head: "Head") -> Tensor:
    top = 0.055 + 0.03 * head.volume
    opening = hairline(x, ax, y, z, width=0.60, height=0.72, depth=0.10)
    shell = crop(scalp, y, 0.05, top).add_(taper(opening))
    return smooth_max(carve(shell, opening, 0.05), nape(y, z), 0.05)


def parted(x: Tensor, ax: Tensor, y: Tensor, z: Tensor, scalp: Tensor, head: "Head") -> Tensor:
    """Short sides; the top is combed from a parting on the subject's left to the right."""
    shell = crop(scalp, y, 0.055, 0.10)
    sweep = ellipsoid(x, y, z, (-0.10, 0.90, 0.18), (0.62, 0.30 + 0.06 * head.volume, 0.62))
    shell = smooth_min(shell, sweep, 0.15)
    groove = capsule(x, y, z, (0.36, 1.12, 0.66), (0.30, 1.36, -0.5), 0.07, 0.03)
    shell = carve(shell, groove, 0.10)
    opening = hairline(x, ax, y - 0.16 * x, z, width=0.58, height=0.66, depth=0.10)
    return smooth_max(carve(shell, opening, 0.07), nape(y, z), 0.05)


def bob(x: Tensor, ax: Tensor, y: Tensor, z: Tensor, scalp: Tensor, head: "Head") -> Tensor:
    """To the chin all around, with a fringe."""
    bulk = ellipsoid(x, y, z, (0, -0.22, -0.26), (0.93 + 0.05 * head.volume, 0.95, 0.86))
    shell = (
        smooth_min(scalp - number(0.13), bulk, 0.2).sub_(ripples(x, y, z, 0.012)).mul_(number(0.9))
    )
    opening = hairline(x, ax, y, z, width=0.53, height=0.37, depth=0.12)
    bottom = (-0.84 - 0.08 * head.volume) - y
    return smooth_max(carve(shell, opening, 0.07), bottom, 0.10)


def long(x: Tensor, ax: Tensor, y: Tensor, z: Tensor, scalp: Tensor, head: "Head") -> Tensor:
    """To the shoulders, parted in the middle."""
    bulk = ellipsoid(x, y, z, (0, -0.62, -0.34), (0.92 + 0.06 * head.volume, 1.25, 0.80))
    shell = (
        smooth_min(scalp - number(0.11), bulk, 0.25).sub_(ripples(x, y, z, 0.018)).mul_(number(0.9))
    )
    groove = capsule(x, y, z, (0, 1.0, 0.75), (0, 1.33, -0.4), 0.07, 0.03)
    shell = carve(shell, groove, 0.08)
    opening = hairline(x, ax, y + 0.42 * ax, z, width=0.56, height=0.86, depth=0.02)
    return smooth_max(carve(shell, opening, 0.07), (-1.62 - 0.08 * head.volume) - y, 0.12)


def curly(x: Tensor, ax: Tensor, y: Tensor, z: Tensor, scalp: Tensor, head: "Head") -> Tensor:
    size = 0.10 * head.volume
    ball = ellipsoid(x, y, z, (0, 0.40, -0.24), (1.02 + size, 0.96 + size * 0.6, 1.04 + size))
    curls = (x * 13).sin_().mul_((y * 13).add_(1.3).sin_()).mul_((z * 13).add_(2.1).sin_())
    ball = ball.sub_(curls, alpha=0.045).mul_(number(0.75))
    opening = hairline(x, ax, y, z, width=0.58, height=0.60, depth=0.10)
    return smooth_max(carve(ball, opening, 0.12), (-0.62 - y).add_(z, alpha=0.3), 0.15)


def bun(x: Tensor, ax: Tensor, y: Tensor, z: Tensor, scalp: Tensor, head: "Head") -> Tensor:
    shell = combed_back(x, ax, y, z, scalp)
    knot = ellipsoid(x, y, z, (0, 0.98, -0.86), (0.30, 0.27, 0.28 + 0.04 * head.volume))
    return smooth_min(shell, knot, 0.06)


def ponytail(x: Tensor, ax: Tensor, y: Tensor, z: Tensor, scalp: Tensor, head: "Head") -> Tensor:
    shell = combed_back(x, ax, y, z, scalp)
    upper = capsule(x, y, z, (0, 0.62, -1.10), (0, 0.30, -1.34), 0.13, 0.19)
    lower = capsule(x, y, z, (0, 0.30, -1.34), (0, -0.75 - 0.2 * head.volume, -1.22), 0.19, 0.05)
    return smooth_min(smooth_min(upper, lower, 0.1), shell, 0.06)


CUTS: dict[str, Callable[..., Tensor]] = {
    "short": short,
    "parted": parted,
    "bob": bob,
    "long": long,
    "curly": curly,
    "bun": bun,
    "ponytail": ponytail,
}


def combed_back(x: Tensor, ax: Tensor, y: Tensor, z: Tensor, scalp: Tensor) -> Tensor:
    opening = hairline(x, ax, y, z, width=0.60, height=0.72, depth=0.06)
    shell = (scalp - number(0.065)).add_(taper(opening))
    return smooth_max(carve(shell, opening, 0.05), nape(y, z), 0.06)


def crop(scalp: Tensor, y: Tensor, sides: float, top: float) -> Tensor:
    """A shell over the scalp whose thickness goes from `sides` to `sides + top` above the ears."""
    return scalp - (y * 1.4).sub_(0.35).clamp_(0, 1).mul_(top).add_(sides)


def hairline(
    x: Tensor, ax: Tensor, y: Tensor, z: Tensor, *, width: float, height: float, depth: float
) -> Tensor:
    """The opening in front of the face: between the temples, below the forehead's hairline."""
    sides = ax - number(width)
    top = (y - number(height)).addcmul_(x, x, value=0.45)
    front = (number(depth) - z).add_(y.clamp(0, 0.7), alpha=0.4)
    return smooth_max(smooth_max(sides, top, 0.12), front, 0.1)


def taper(opening: Tensor) -> Tensor:
    """What to take off the hair's thickness near the hairline, where it lies close to the skin."""
    return (number(0.18) - opening).clamp_(0, 0.18).square_().mul_(number(1.15))


def nape(y: Tensor, z: Tensor) -> Tensor:
    """Positive below a line from the nape over the ears to the sideburns."""
    return (z * number(0.5)).sub_(y).sub_(number(0.02)).mul_(number(0.9))


def ripples(x: Tensor, y: Tensor, z: Tensor, height: float) -> Tensor:
    """Locks: waves across the fall of the hair."""
    return (x * 15).sin_().add_((z * 15).add_(1.0).sin_()).mul_(height)


def brow(ax: Tensor, y: Tensor, z: Tensor, head: "Head") -> Tensor:
    along = (ax - number(0.12)).clamp_(0, 0.34)
    arc = (along - number(0.12)).square_()
    dy = (y - number(head.brow_y)).sub_(along, alpha=head.brow_slope).add_(arc, alpha=0.9)
    dz = (z - number(0.775)).add_(along, alpha=0.22).addcmul_(along, along, value=0.75)
    radius = head.brow - 0.035 * along
    dx = (ax - number(0.12)).sub_(along)
    return length(dx, dy, dz.mul_(0.8)).sub_(radius).mul_(number(0.85))


def beard(
    x: Tensor, ax: Tensor, y: Tensor, z: Tensor, skin: Tensor, head: "Head"
) -> dict[str, Tensor]:
    """A beard is a thickness over the skin, from the sideburns around the mouth to the throat."""
    found = []
    if head.beard:
        line = (y + number(0.36)).add_(z, alpha=0.32).mul_(number(0.92))
        behind = number(0.02) - z
        throat = number(-1.24 - head.face_length) - y
        region = smooth_max(smooth_max(line, behind, 0.15), throat, 0.15)
        mouth = ellipsoid(x, y, z, (0, -0.67, 0.80), (0.27, 0.09, 0.25))
        region = carve(region, mouth, 0.05)
        found.append(smooth_max(skin - number(head.beard), region, 0.14))
    if head.moustache:
        found.append(
            capsule(ax, y, z, (0.03, -0.555, 0.80), (0.25, -0.66, 0.665), head.moustache, 0.03)
        )
    if len(found) == 2:
        return {"beard": smooth_min(found[0], found[1], 0.05)}
    return {"beard": found[0]} if found else {}
