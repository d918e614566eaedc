"""Carved stone. Instance: 0 stone (marble, limestone, sandstone, slate), 1 veins, 2 colour of the
veins, 3 scale of the veins, 4 polish, 5 weathering."""

import dataclasses

from torch import Tensor

from eg3d_renderer.demo.anatomy import eye_frame
from eg3d_renderer.demo.colours import ease, mix, noise, paint, ramp, show
from eg3d_renderer.demo.heads import Head
from eg3d_renderer.demo.shading import Surface
from eg3d_renderer.demo.styles import materials

STONES = ("#f4f1ea", "#efe9dc", "#ddcdb0", "#c79f7c", "#9fb0a4", "#6d7681")
VEINS = ("#5b6470", "#8a6a4c", "#3f6b5e", "#7c4a52")


def reshape(head: Head, instance: list[float]) -> Head:
    return dataclasses.replace(head, glasses=0.0)


def shade(s: Surface, head: Head, instance: list[float]) -> Tensor:
    """Colours [3, N] in [0, 1]."""
    like = s.x
    stone = ramp(STONES, instance[0], like)
    f = 2.2 + 1.0 * instance[3]
    bend = noise(s.x, s.y, s.z, f)
    vein = 1 - (noise(s.x + 0.25 * bend, s.y + 0.6 * s.x, s.z - 0.2 * bend, f, 3.0)).abs_()
    vein = ease(vein, 0.80, 1.0) * (0.45 + 0.45 * instance[1])
    rgb = mix(stone * (0.96 + 0.06 * bend), ramp(VEINS, instance[2], like), vein)
    lines, _ = materials.strands(s, head)
    carved = s.part("hair") + s.part("beard") + s.part("brow")
    rgb = rgb * (1 - carved * (0.16 - 0.22 * lines).clamp_(0, 0.4))
    ex, ey, _ = eye_frame(like.abs(), s.y, s.z, head)
    r = (ex * ex).addcmul_(ey, ey).sqrt_() / head.iris
    incised = ease((r - 1).abs_(), 0.22, 0.08) + ease(r, 0.45, 0.3)
    rgb = rgb * (1 - 0.4 * incised.clamp_(0, 1) * s.part("eye"))
    dirt = ease(s.occlusion + 0.12 * noise(s.x, s.y, s.z, 9.0), 0.72, 0.25)
    rgb = mix(rgb, stone * paint("#8d7a62", like), dirt * (0.3 + 0.3 * instance[5]))
    rgb = materials.lit(s, rgb, fill=1.25, key=1.05)
    return show(rgb + (0.10 + 0.08 * instance[4]) * s.gleam**18 * s.key)
