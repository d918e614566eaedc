"""The parts of a head as signed distances: skin, eyes, lips, and all that is worn on it."""

import torch
from torch import Tensor

from eg3d_renderer.demo.distances import (
    capsule,
    carve,
    ellipsoid,
    length,
    number,
    smooth_max,
    smooth_min,
    sphere,
)
from eg3d_renderer.demo.hair import beard, brow, hair
from eg3d_renderer.demo.heads import Head
from eg3d_renderer.demo.wear import cloth, glasses, hat

EYE_Z = 0.60
MOUTH_Y = -0.66
FACE = (0.0, -0.25, 0.62)
MARGIN = 0.22


def parts(x: Tensor, y: Tensor, z: Tensor, head: Head, *, whole: bool = False) -> dict[str, Tensor]:
    """Signed distances [N] of the parts that this head has, negative inside.

    Features of the face are worked out only for points near it; elsewhere the distance to their
    bounding sphere stands in for them, unless the `whole` is asked for.
    """
    ax = x.abs()
    scalp = ellipsoid(x, y, z, (0, 0.32, -0.16), head.cranium)
    skin = smooth_min(
        scalp, ellipsoid(x, y, z, (0, -0.3 - head.face_length / 2, 0.18), (0.60, 0.75, 0.62)), 0.2
    )
    skin = smooth_min(skin, jaw(ax, y, z, head), 0.22)
    skin = smooth_min(skin, ear(ax, y, z, head), 0.05)
    found = {"skin": smooth_min(skin, neck(x, ax, y, z, head), 0.12)}
    found |= hair(x, ax, y, z, scalp, head) | hat(x, y, z, scalp, head)
    for bound, features in (
        (y + number(0.9), bust),
        (sphere(x, y, z, FACE, face_radius(head)), face),
    ):
        if whole:
            found |= features(x, ax, y, z, found["skin"], head)
            continue
        near = (bound < MARGIN).nonzero().view(-1)
        far = bound.clamp_min_(MARGIN)
        found["skin"] = torch.minimum(found["skin"], far)
        if len(near):
            hx, hax, hy, hz, skin = (v.index_select(0, near) for v in (x, ax, y, z, found["skin"]))
            for name, d in features(hx, hax, hy, hz, skin, head).items():
                found[name] = found.get(name, far).index_copy(0, near, d)
    return found


def face_radius(head: Head) -> float:
    """Of a sphere around FACE that holds all that `face` adds to this head."""
    temples, throat = 1.15 if head.glasses else 0.0, 1.08 if head.beard else 0.0
    return max(0.78 + 0.3 * head.muzzle, temples, throat)


def distance(x: Tensor, y: Tensor, z: Tensor, head: Head, *, whole: bool = False) -> Tensor:
    """Signed distance [N] of the whole head, or a lower bound of it."""
    first, *others = parts(x, y, z, head, whole=whole).values()
    for other in others:
        first = torch.minimum(first, other)
    return first


def jaw(ax: Tensor, y: Tensor, z: Tensor, head: Head) -> Tensor:
    chin_y = -0.97 - head.face_length
    bone = capsule(ax, y, z, (head.jaw, -0.52, -0.08), (0.12, chin_y, 0.50), 0.14, 0.13)
    chin = sphere(ax, y, z, (0, chin_y, 0.57), head.chin)
    cheek = sphere(ax, y, z, (0.34, -0.48, 0.42), head.fullness)
    return smooth_min(smooth_min(bone, chin, 0.15), cheek, 0.25)


def neck(x: Tensor, ax: Tensor, y: Tensor, z: Tensor, head: Head) -> Tensor:
    column = capsule(x, y, z, (0, -0.6, -0.24), (0, -1.6, -0.42), head.neck, head.neck + 0.04)
    muscle = capsule(ax, y, z, (0.42, -0.45, -0.32), (0.10, -1.45, -0.02), 0.07, 0.06)
    return smooth_min(column, muscle, 0.12)


def bust(
    x: Tensor, ax: Tensor, y: Tensor, z: Tensor, skin: Tensor, head: Head
) -> dict[str, Tensor]:
    """The skin [N] with shoulders, chest and the slope from the neck to them, and a shirt."""
    shoulders = capsule(ax, y, z, (0, -1.80, -0.38), (0.95, -1.84, -0.38), 0.40, 0.34)
    slope = capsule(ax, y, z, (0.2, -1.05, -0.44), (0.85, -1.55, -0.40), 0.14, 0.16)
    chest = ellipsoid(x, y, z, (0, -2.05, -0.26), (0.95, 0.56, 0.52))
    body = smooth_min(smooth_min(shoulders, chest, 0.25), slope, 0.25)
    skin = smooth_min(skin, body, 0.2)
    return {"skin": skin, "cloth": cloth(skin, y, z, head)}


def ear(ax: Tensor, y: Tensor, z: Tensor, head: Head) -> Tensor:
    if head.ear_point:
        tip = (0.72, 1.06 + 0.36 * head.ear_point, -0.16)
        cone = capsule(ax, y, z, (0.44, 0.72, -0.10), tip, 0.30, 0.02)
        front = capsule(ax, y, z, (0.49, 0.74, 0.12), (0.73, tip[1] - 0.04, -0.03), 0.27, 0.02)
        return carve(cone, front, 0.03)
    out, back = ax - number(head.cranium[0] - 0.005), z + number(0.10)
    lx = (out * number(0.93)).add_(back, alpha=head.ear_angle)
    lz = (back * number(0.93)).sub_(out, alpha=head.ear_angle)
    y = y + number(0.08)
    s = head.ear
    shell = ellipsoid(lx, y, lz, (0, 0, -0.07), (0.06, 0.25 * s, 0.16 * s))
    bowl = ellipsoid(lx, y, lz, (0.07, 0.02, -0.05), (0.07, 0.17 * s, 0.09 * s))
    return carve(shell, bowl, 0.03)


def face(
    x: Tensor, ax: Tensor, y: Tensor, z: Tensor, skin: Tensor, head: Head
) -> dict[str, Tensor]:
    """The skin [N] with the features of the face, and the parts that lie on it."""
    skin = smooth_min(skin, sphere(ax, y, z, (0.40, -0.20, 0.46), head.cheekbone), 0.2)
    ridge = capsule(ax, y, z, (0.0, 0.17, 0.73), (0.47, 0.17, 0.52), head.brow_ridge, 0.07)
    skin = smooth_min(skin, ridge, 0.14)
    skin = carve(skin, sphere(ax, y, z, (head.eye_x, 0, 0.85), head.socket), 0.1)
    skin = smooth_min(skin, ellipsoid(x, y, z, (0, -0.66, 0.56), (0.30, 0.24, 0.22)), 0.14)
    if head.muzzle:
        snout = capsule(x, y, z, (0, -0.30, 0.62), (0, -0.50, 0.72 + 0.42 * head.muzzle), 0.2, 0.17)
        skin = smooth_min(skin, snout, 0.2)
    skin = smooth_min(skin, nose(x, ax, y, z, head), 0.09)
    skin = carve(skin, nostril(ax, y, z, head), 0.03)
    ball, lids = eye(ax, y, z, head)
    skin = smooth_min(skin, lids, 0.03)
    found = {"eye": ball, "lip": lips(x, y, z, head), "brow": brow(ax, y, z, head)}
    found |= beard(x, ax, y, z, skin, head)
    found |= glasses(ax, y, z, head)
    return {"skin": skin, **found}


def nose(x: Tensor, ax: Tensor, y: Tensor, z: Tensor, head: Head) -> Tensor:
    tip = (0.0, head.nose_y, head.nose_z)
    middle = (0.0, -0.10, 0.83 + head.nose_bridge)
    bridge = capsule(x, y, z, (0, 0.12, 0.71), middle, 0.05, 0.055)
    lower = capsule(x, y, z, middle, tip, 0.055, head.nose)
    wing = sphere(ax, y, z, (head.nostril_x, head.nose_y - 0.045, head.nose_z - 0.11), 0.068)
    root = (0.0, head.nose_y + 0.05, head.nose_z - 0.15)  # no light between nose and face
    inside = capsule(x, y, z, (0, 0.02, 0.66), root, 0.06, 0.105)
    ridge = smooth_min(bridge, torch.minimum(lower, inside), 0.05)
    return smooth_min(ridge, wing, 0.06)


def nostril(ax: Tensor, y: Tensor, z: Tensor, head: Head) -> Tensor:
    centre = (0.62 * head.nostril_x, head.nose_y - 0.105, head.nose_z - 0.06)
    return sphere(ax, y, z, centre, 0.032)


def eye(ax: Tensor, y: Tensor, z: Tensor, head: Head) -> tuple[Tensor, Tensor]:
    """The eyeball, and the lids: a thin shell around it, cut by two planes through its centre."""
    ex, ey, ez = eye_frame(ax, y, z, head)
    ball = length(ex, ey, ez)
    shell = ball - number(head.eye_radius + 0.02)
    upper = smooth_max(shell, (ez * number(head.lid_up)).sub_(ey), 0.015)
    lower = smooth_max(shell, (ez * number(head.lid_down)).add_(ey), 0.015)
    return ball.sub_(number(head.eye_radius)), torch.minimum(upper, lower)


def eye_frame(ax: Tensor, y: Tensor, z: Tensor, head: Head) -> tuple[Tensor, Tensor, Tensor]:
    """Coordinates from the eye's centre, the tilt of the lids undone."""
    ex = ax - number(head.eye_x)
    return ex, (y - number(0.0)).sub_(ex, alpha=head.eye_tilt), z - number(EYE_Z)


def lips(x: Tensor, y: Tensor, z: Tensor, head: Head) -> Tensor:
    xx = (x * x).clamp_max_(0.16)  # beyond the lips their bend would bring them near
    my = (y - number(MOUTH_Y)).sub_(xx, alpha=head.smile)
    mz = (z - number(0.73 + 0.42 * head.muzzle)).add_(xx, alpha=0.9)
    width = head.mouth_width
    upper = ellipsoid(x, my, mz, (0, 0.034, 0), (width, 0.046 * head.lip, 0.09))
    lower = ellipsoid(x, my, mz, (0, -0.046, 0), (0.84 * width, 0.058 * head.lip, 0.098))
    around = sphere(x, y, z, (0, MOUTH_Y, 0.62 + 0.42 * head.muzzle), 0.45)  # holds them both
    return torch.maximum(torch.minimum(upper, lower).mul_(number(0.68)), around)
