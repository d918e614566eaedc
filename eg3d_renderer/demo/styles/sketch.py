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
    light = 0.60 * s.key + s.occlusion * (0.28 + 0.24 * s.sky) + 0.30 * s.back
    dark = 1 - light + 0.18 * s.part("lip") + 0.55 * s.part("brow") + 0.15 * s.part("cloth")
    dark = dark + 0.7 * s.part("glasses") + 0.2 * s.part("hat") - 0.10 * head.skin_tone

    frequency = 44 * 2 ** (-0.5 * instance[2])
    angle = 0.8 + 0.5 * instance[3]
    a, b = math.cos(angle), math.sin(angle)
    wobble = 0.05 * noise(s.x, s.y, s.z, 4.0)
    crowded = ease(s.facing, 0.45, 0.15)  # strokes seen at a slant: their mean, no moire
    first = stroke((a * s.x + b * s.y + 0.55 * s.z + wobble) * frequency, dark - 0.28, crowded)
    cross = stroke((a * s.x - b * s.y + 0.55 * s.z - wobble) * frequency, dark - 0.60, crowded)
    hatch = torch.maximum(first, cross * (0.7 + 0.3 * instance[5]))
    strand, sheen = materials.strands(s, head)
    tone = (dark - 0.35 * head.hair_tone - 0.5 * sheen).clamp(-0.1, 0.50)
    locks = ease(tone - 0.24 - 0.62 * strand, -0.16, 0.22)
    hatch = mix(hatch, locks, (s.part("hair") + s.part("beard")).clamp(0, 1))
    hatch = 0.42 * ease(dark, 0.15, 1.0) + 0.50 * hatch  # a wash under the strokes

    outline = ease(s.facing, 0.36 + 0.08 * instance[4], 0.16)
    crease = ease(s.occlusion, 0.30, 0.10)
    ink = torch.maximum(hatch, torch.maximum(outline, crease * 0.8))
    ex, ey, ez = eye_frame(like.abs(), s.y, s.z, head)
    r = (ex * ex).addcmul_(ey, ey).sqrt_() / head.iris
    iris = (0.55 * ease(r, 1.08, 0.95) + 0.45 * ease(r, 0.55, 0.42)) * (ez > 0)
    iris = torch.maximum(iris, ease((r - 1).abs_(), 0.2, 0.05) * (ez > 0))
    ink = mix(ink, iris * (1 - ease(s.gleam, 0.97, 0.985)), s.part("eye"))
    ink = torch.maximum(ink, materials.lashes(s, head) * s.part("skin"))
    return show(
        mix(ramp(PAPERS, instance[0], like), ramp(INKS, instance[1], like), ink.clamp_(0, 1) * 0.92)
    )


def stroke(phase: Tensor, dark: Tensor, crowded: Tensor) -> Tensor:
    """Ink of parallel strokes, wider where it is darker, flat where they are `crowded`: [N]."""
    width = (dark * 1.1).clamp(0, 0.55)
    lines = ease(width * 2 - 1 - phase.cos(), -0.3, 0.3) * ease(dark, -0.02, 0.05)
    return mix(lines, width, crowded)
