"""Dolls of painted porcelain. Instance: 0 glaze (white, celadon, cream), 1 hue of the painted hair,
2 hue of the ornament (green, cobalt, violet, iron red), 3 rosiness, 4 lightness of the hair, 5
crackle."""

import dataclasses

import torch
from torch import Tensor

from eg3d_renderer.demo.colours import ease, mix, noise, paint, ramp, show
from eg3d_renderer.demo.hair import hairline, nape
from eg3d_renderer.demo.heads import Head
from eg3d_renderer.demo.shading import KEY, Surface, dot
from eg3d_renderer.demo.styles import materials
from eg3d_renderer.demo.wear import neckline

GLAZES = ("#f6f8fa", "#dfeae2", "#b9d6c3", "#dfe0c4", "#f3e3c2")
HAIRS = ("#7a3fa0", "#2b4fae", "#1f8a94", "#3f8a3c", "#c08a24", "#b04a20", "#a02848")
ORNAMENTS = ("#1d7a45", "#1a6a8a", "#1b3aa6", "#5a2f96", "#b02a20")


def reshape(head: Head, instance: list[float]) -> Head:
    return dataclasses.replace(
        head,
        eye_radius=head.eye_radius * 1.25,
        iris=head.iris * 1.45,
        lid_up=head.lid_up + 0.24,
        lid_down=head.lid_down + 0.22,
        socket=0.215,
        nose=head.nose * 0.78,
        nose_z=head.nose_z - 0.06,
        nose_y=head.nose_y + 0.03,
        nostril_x=head.nostril_x * 0.65,
        ear=head.ear * 0.82,
        brow_ridge=0.07,
        brow=head.brow * 0.75,
        brow_y=head.brow_y + 0.07,
        mouth_width=head.mouth_width * 0.8,
        smile=0.7 * head.smile + 0.45,
    )


def shade(s: Surface, head: Head, instance: list[float]) -> Tensor:
    """Colours [3, N] in [0, 1]."""
    like, ax = s.x, s.x.abs()
    glaze = ramp(GLAZES, instance[0], like)
    body = mix(glaze, glaze * glaze * 0.85, ease(s.occlusion, 0.70, 0.25))  # pools in hollows
    body = body * (1 - (0.30 + 0.29 * instance[5]) * crackle(s))
    cheek = ease((ax - 0.37).square() + (s.y + 0.34).square(), 0.045, 0.004) * (s.z > 0)
    rgb = mix(body, paint("#ea5a58", like), cheek * (0.42 + 0.40 * instance[3]))
    hair = ramp(HAIRS, instance[1], like) * (0.62 + 0.55 * instance[4])
    hair = mix(hair, glaze, 0.06 + 0.30 * max(instance[4], 0.0))
    if head.haircut == "shaven":
        opening = hairline(s.x, ax, s.y, s.z, width=0.60, height=0.70, depth=0.08)
        cap = ease(torch.maximum(-opening, nape(s.y, s.z)), 0.02, -0.02)
        rgb = mix(rgb, hair, 0.6 * cap * ease(ax, head.cranium[0] + 0.07, head.cranium[0]))
    lines, _ = materials.strands(s, head)
    locks = mix(hair, hair * 0.40, ease(lines, 0.28, 0.40))
    pigment = ramp(ORNAMENTS, instance[2], like)
    cloth = mix(body, pigment, ornament(s, head))
    eye = materials.eye(
        s,
        head,
        paint("#f8f8f6", like),
        ramp(materials.IRISES, head.iris_hue, like),
        paint("#0c0a10", like),
    )
    rgb = mix(rgb, paint("#1c1210", like), 0.9 * materials.lashes(s, head))
    for name, colour in (
        ("lip", mix(glaze, paint("#d8323c", like), 0.72 + 0.2 * instance[3])),
        ("eye", eye),
        ("brow", hair * 0.4),
        ("hair", locks),
        ("beard", locks),
        ("cloth", cloth),
        ("glasses", paint("#c8982e", like)),
        ("hat", mix(pigment, body, 0.9 * ease((torch.atan2(s.x, s.z) * 7).cos(), 0.8, 0.95))),
    ):
        rgb = mix(rgb, colour, s.part(name))
    return show(materials.lit(s, rgb, fill=1.3) + reflection(s))


def ornament(s: Surface, head: Head) -> Tensor:
    """How much of the shirt is painted, [N]: a rim, washed petals, dots in and between them."""
    depth = -neckline(s.y, s.z, head)
    angle = torch.atan2(s.x, s.z + 0.38) * 5
    along, across = angle.cos(), angle.sin()
    petal = depth - 0.13 - 0.13 * along.abs()
    brush = 0.020 + 0.010 * (2 * angle).cos()
    painted = torch.maximum(ease(depth, 0.045, 0.03), ease(petal.abs() - brush, 0.012, 0.0))
    for side, level in ((across, 0.15), (along, 0.30)):
        drop = (0.17 * side).square() + (depth - level).square()
        painted = torch.maximum(painted, ease(drop, 0.0022, 0.0010))
    return torch.maximum(painted, 0.4 * ease(depth, 0.22, 0.03))


def crackle(s: Surface) -> Tensor:
    """Cracks in the glaze, [N]: each of three families of planes ends at the one before."""
    bend = 0.25 * noise(s.x, s.y, s.z, 2.5, 2.0)
    cracks, cell = torch.zeros_like(s.x), torch.zeros_like(s.x)
    for a, b, c in ((2.4, 1.1, 0.9), (-1.3, 2.6, 1.2), (1.9, -1.6, 2.8)):
        at = a * s.x + b * s.y + c * s.z + bend + (cell * 12.9).sin() * 7
        cell = cell * 3 + at.round()
        cracks = torch.maximum(cracks, ease((at - at.round()).abs(), 0.46, 0.485))
    return cracks


def reflection(s: Surface) -> Tensor:
    """What the glaze mirrors, [N]: a window by the key light, a bright room at a slant."""
    twice = 2 * dot(s.half, KEY)
    rx, ry = (2 * s.facing * s.normal[i] - twice * s.half[i] for i in (0, 1))
    pane = ease(rx.abs(), 0.20, 0.15) * ease(ry.abs(), 0.20, 0.15)
    pane = pane * ease(s.gleam, 0.7, 0.9) * ease(s.key, 0.1, 0.3) * ease(s.occlusion, 0.6, 0.9)
    return 0.85 * pane + 0.14 * s.gleam**24 * s.key + 0.40 * (1 - s.facing) ** 4 * s.sky
