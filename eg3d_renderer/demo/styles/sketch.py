"""Ink on paper. Instance: 0 paper (white to tan), 1 ink (black, sepia, sanguine, blue, green),
2 spacing of the hatching, 3 its direction, 4 boldness, 5 cross-hatching."""

import math

import torch
from torch import Tensor

from eg3d_renderer.demo.anatomy import eye_frame
from eg3d_renderer.demo.colours import ease, mix, noise, ramp, show
from eg3d_renderer.demo.heads import Head
from eg3d_renderer.demo.shading import Surface
from eg3d_renderer.demo.styles import materials

PAPERS = ("#ffffff", "#faf6ea", "#efe2c4", "#dcc39a")
INKS = ("#14141c", "#2a2320", "#4a2c18", "#8c3a22", "#23366e", "#1d4a45")


def reshape(head: Head, instance: list[float]) -> Head:
    return head


def shade(s: Surface, head: Head, instance: list[float]) -> Tensor:
    """Colours [3, N] in [0, 1]."""
    like = s.x
    dark = 1 - (0.62 * s.key + s.occlusion * (0.22 + 0.22 * s.sky) + 0.10 * s.back)
    hair_tone = 0.50 - 0.22 * head.hair_tone
    dark = dark + 0.18 * s.part("lip") + 0.55 * s.part("brow") + 0.2 * s.part("cloth")
    dark = dark + 0.7 * s.part("glasses") + 0.25 * s.part("hat") - 0.12 * head.skin_tone
    strand, sheen = materials.strands(s, head)
    hairy = s.part("hair") + s.part("beard")
    dark = (dark + hairy * (hair_tone - 0.5 * sheen)).clamp_(0, 1.3)

    frequency = 46 * 2 ** (-0.8 * instance[2])
    angle = 0.8 + 0.5 * instance[3]
    a, b = math.cos(angle), math.sin(angle)
    wobble = 0.05 * noise(s.x, s.y, s.z, 4.0)
    first = stroke((a * s.x + b * s.y + 0.55 * s.z + wobble) * frequency, dark - 0.30)
    cross = stroke((a * s.x - b * s.y + 0.55 * s.z - wobble) * frequency, dark - 0.58)
    hatch = torch.maximum(first, cross * (0.75 + 0.25 * instance[5]))
    hatch = mix(hatch, ease(dark - 0.45 - 0.45 * strand, -0.1, 0.25), hairy.clamp(0, 1))

    outline = ease(s.facing, 0.36 + 0.08 * instance[4], 0.16)
    crease = ease(s.occlusion, 0.36, 0.16)
    ink = torch.maximum(hatch * 0.85, torch.maximum(outline, crease))
    ex, ey, ez = eye_frame(like.abs(), s.y, s.z, head)
    r = (ex * ex).addcmul_(ey, ey).sqrt_() / head.iris
    iris = (0.55 * ease(r, 1.08, 0.95) + 0.45 * ease(r, 0.55, 0.42)) * (ez > 0)
    iris = torch.maximum(iris, ease((r - 1).abs_(), 0.2, 0.05) * (ez > 0))
    ink = mix(ink, iris * (1 - ease(s.gleam, 0.97, 0.985)), s.part("eye"))
    ink = torch.maximum(ink, materials.lashes(s, head) * s.part("skin"))
    return show(
        mix(ramp(PAPERS, instance[0], like), ramp(INKS, instance[1], like), ink.clamp_(0, 1) * 0.92)
    )


def stroke(phase: Tensor, dark: Tensor) -> Tensor:
    """Ink of parallel strokes, wider where it is darker: 0 below dark = 0, solid at 0.8."""
    width = (dark * 1.3).clamp(0, 1) * 2 - 1
    return ease(width - phase.cos(), -0.25, 0.25) * ease(dark, -0.02, 0.05)
