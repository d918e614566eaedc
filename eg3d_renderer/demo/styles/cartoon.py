"""Drawn heads: large eyes, small noses, flat colours, soft outlines. Instance: 0 hue of the hair, 1
its lightness, 2 hue of the cloth, 3 size of the eyes, 4 hue of the iris, 5 strength of shade."""

import dataclasses

import torch
from torch import Tensor

from eg3d_renderer.demo.colours import ease, hsv, mix, paint, ramp, show
from eg3d_renderer.demo.heads import Head
from eg3d_renderer.demo.shading import Surface
from eg3d_renderer.demo.styles import materials

SKINS = ("#8d5a3b", "#c98d5f", "#f2bd8e", "#ffd9b8", "#ffe6d2")


def reshape(head: Head, instance: list[float]) -> Head:
    grow = 1.42 + 0.12 * instance[3]
    return dataclasses.replace(
        head,
        eye_radius=head.eye_radius * grow,
        iris=head.iris * grow * 1.12,
        lid_up=head.lid_up + 0.30,
        lid_down=head.lid_down + 0.22,
        eye_x=head.eye_x + 0.015,
        socket=0.23,
        nose=head.nose * 0.72,
        nose_z=head.nose_z - 0.07,
        nose_y=head.nose_y + 0.04,
        nostril_x=head.nostril_x * 0.6,
        jaw=head.jaw - 0.05,
        chin=head.chin - 0.03,
        brow_y=head.brow_y + 0.10,
        brow=head.brow * 1.25,
        smile=head.smile + 0.7,
        neck=head.neck - 0.07,
        brow_ridge=0.075,
    )


def shade(s: Surface, head: Head, instance: list[float]) -> Tensor:
    """Colours [3, N] in [0, 1]."""
    like = s.x
    light = 0.75 * s.key + s.occlusion * (0.22 + 0.22 * s.sky) + 0.30 * s.back
    bands = 0.60 + 0.20 * ease(light, 0.30, 0.34) + 0.20 * ease(light, 0.66, 0.70)
    bands = 1 - (1 - bands) * (0.8 + 0.3 * instance[5])
    skin = ramp(SKINS, head.skin_tone, like)
    cheek = ease((s.x.abs() - 0.38).square() + (s.y + 0.34).square(), 0.022, 0.010)
    skin = mix(skin, skin * paint("#ff8f86", like), 0.6 * cheek * (s.z > 0))
    hair = hsv(0.5 + 0.5 * instance[0], 0.72, 0.62 + 0.32 * instance[1], like)
    lines, _ = materials.strands(s, head)
    locks = mix(hair, hair * 0.62, ease(lines, 0.25, 0.4))
    cloth = hsv(0.3 + 0.5 * instance[2], 0.75, 0.85, like)
    eye = materials.eye(
        s,
        head,
        paint("#ffffff", like),
        hsv(0.5 + 0.3 * instance[4], 0.8, 0.85, like),
        paint("#101018", like),
    )
    rgb = mix(skin, paint("#241414", like), materials.lashes(s, head))
    for name, colour in (
        ("lip", skin * paint("#e0525c", like)),
        ("brow", hair * 0.4),
        ("hair", locks),
        ("beard", locks),
        ("cloth", cloth),
        ("glasses", paint("#1c1c28", like)),
        ("hat", hsv(0.8 + 0.5 * instance[2], 0.7, 0.75, like)),
    ):
        rgb = mix(rgb, colour, s.part(name))
    rgb = rgb * bands.square()
    rgb = mix(rgb, eye, s.part("eye")) + s.part("eye") * ease(s.gleam, 0.965, 0.975)
    outline = ease(s.facing, 0.34, 0.20) * torch.maximum(1 - s.part("eye"), s.part("hair"))
    return show(mix(rgb, paint("#1d1420", like), 0.85 * outline))
