"""Wolves in clothes. Instance: 0 colour of the fur, 1 lightness of its under-side, 2 colour of the
eyes, 3 length of the muzzle, 4 height of the ears, 5 shagginess."""

import dataclasses

import torch
from torch import Tensor

from eg3d_renderer.demo.colours import ease, hsv, mix, noise, paint, ramp, show, spot
from eg3d_renderer.demo.heads import Head
from eg3d_renderer.demo.shading import Surface
from eg3d_renderer.demo.styles import materials

FURS = ("#3d3632", "#6a574a", "#8a5f3a", "#a8713f", "#98948f", "#cfc9bf")
EYES = ("#ff9a1a", "#ffd23a", "#c8e85a", "#8fd8ff")


def reshape(head: Head, instance: list[float]) -> Head:
    muzzle = 0.62 + 0.18 * instance[3]
    return dataclasses.replace(
        head,
        muzzle=muzzle,
        nose_y=-0.36,
        nose_z=1.06 + 0.42 * (muzzle - 0.3),
        nose=0.095,
        nostril_x=0.075,
        brow_ridge=head.brow_ridge + 0.035,
        brow=head.brow * 1.5,
        brow_slope=head.brow_slope + 0.22,
        ear_point=0.75 + 0.22 * instance[4],
        mouth_width=0.25,
        lip=0.55 * head.lip,
        smile=0.3 * head.smile - 0.7,
        beard=max(head.beard, 0.05 + 0.03 * instance[5]),
        haircut="short" if head.haircut == "shaven" else head.haircut,
        volume=min(head.volume, -0.4),
        hat="none",
        glasses=0.0,
        neck=head.neck + 0.06,
    )


def shade(s: Surface, head: Head, instance: list[float]) -> Tensor:
    """Colours [3, N] in [0, 1]."""
    like, ax = s.x, s.x.abs()
    fur = ramp(FURS, instance[0], like)
    under = mix(fur, paint("#e6d8c0", like), 0.45 + 0.3 * instance[1])
    flow = noise(s.x * 2.4, s.y * 0.8, s.z * 1.6, 11.0) * 0.6
    flow = flow + 0.4 * noise(s.x * 3, s.y * 0.9, s.z * 2, 22.0, 4.0)
    pale = spot(ax, s.y, s.z, (0.16, -0.66, 0.85), 0.55) + ease(s.y, -0.75, -1.2)
    pale = (pale + spot(ax, s.y, s.z, (head.eye_x, 0.22, 0.7), 0.22)).clamp_(0, 1)
    coat = mix(fur, under, 0.8 * pale) * (1 + (0.45 + 0.15 * instance[5]) * flow)
    dark = spot(ax, s.y, s.z, (head.eye_x, 0.0, 0.75), 0.26)
    coat = mix(coat, paint("#141010", like), 0.55 * dark)
    snout = spot(s.x, s.y, s.z, (0, head.nose_y, head.nose_z + 0.02), 0.19)
    nose = ease(snout, 0.12, 0.30)
    coat = mix(coat, paint("#17130f", like), nose)
    coat = mix(coat, paint("#0c0808", like), materials.lashes(s, head))
    mane = mix(fur * 0.55, materials.hair_colour(head, like), 0.25)
    strand = materials.hair(s, mane, head, gloss=0.3)
    eye = materials.eye(
        s, head, paint("#f4d88a", like), ramp(EYES, instance[2], like), paint("#0a0606", like)
    )
    shirt = hsv(0.05 + 0.4 * head.cloth_hue, 0.4, 0.42, like)
    rgb = coat
    for name, colour in (
        ("lip", paint("#241818", like)),
        ("eye", eye),
        ("brow", fur * 0.35),
        ("hair", strand),
        ("beard", coat * 1.08),
        ("cloth", materials.cloth(s, shirt, head)),
    ):
        rgb = mix(rgb, colour, s.part(name))
    fringe = (1 - s.facing).square() * 0.25 * torch.maximum(s.part("skin"), s.part("beard"))
    rgb = mix(materials.lit(s, rgb), rgb, 0.35 * s.part("eye")) + fringe * fur * s.occlusion
    wet = 0.25 * nose * s.part("skin") * s.gleam**16
    return show(rgb + wet + 0.8 * s.part("eye") * ease(s.gleam, 0.985, 0.995))
