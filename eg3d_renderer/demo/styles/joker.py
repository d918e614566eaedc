"""Stage make-up of a villain. Instance: 0 hue of the hair, 1 red of the mouth, 2 colour round the
eyes, 3 width of the painted grin, 4 wear of the white, 5 hue of the suit."""

import dataclasses

from torch import Tensor

from eg3d_renderer.demo.colours import ease, hsv, mix, noise, paint, ramp, show
from eg3d_renderer.demo.heads import Head
from eg3d_renderer.demo.shading import Surface
from eg3d_renderer.demo.styles import materials

PATCHES = ("#1a1a20", "#27305e", "#4a1f5c", "#1f4f54")


def reshape(head: Head, instance: list[float]) -> Head:
    return dataclasses.replace(
        head,
        smile=0.6 * head.smile + 1.3,
        brow_slope=head.brow_slope + 0.12,
        hat="none",
    )


def shade(s: Surface, head: Head, instance: list[float]) -> Tensor:
    """Colours [3, N] in [0, 1]."""
    like, ax = s.x, s.x.abs()
    rough = noise(s.x, s.y, s.z, 11.0)
    bare = materials.skin(s, head)
    face = ease(s.z - 0.10 * rough, 0.02, 0.14) * ease(s.y + 0.05 * rough, -1.28, -1.18)
    worn = ease(rough, 0.55, 0.8 + 0.3 * instance[4]) * (0.35 + 0.35 * instance[4])
    skin = mix(bare, paint("#f3f1ec", like), face * (0.95 - worn))
    front = ease(s.z, 0.25, 0.40)
    patch = ((ax - head.eye_x) / 0.20).square() + ((s.y - 0.03) / 0.25).square()
    patch = ease(patch + 0.25 * rough, 1.15, 0.75) * front
    skin = mix(skin, ramp(PATCHES, instance[2], like), 0.92 * patch)
    red = hsv(0.985 + 0.02 * instance[1], 0.90, 0.66 + 0.14 * instance[1], like)
    across, above = materials.mouth(s, head)
    reach = 0.42 + 0.07 * instance[3]
    grin = (across / reach).square() + (above / (0.075 + 0.03 * (1 - ax / reach))).square()
    grin = ease(grin + 0.18 * rough, 1.2, 0.85) * front
    skin = mix(skin, red, 0.95 * grin)
    skin = mix(skin, paint("#120c0c", like), 0.9 * materials.lashes(s, head))
    dye = hsv(0.36 + 0.42 * instance[0], 0.80, 0.50, like)
    strand = materials.hair(s, dye, head, gloss=0.9)
    suit = hsv(0.78 + 0.12 * instance[5], 0.60, 0.42, like)
    eye = materials.eye(
        s,
        head,
        paint("#f4f0ea", like),
        ramp(materials.IRISES, head.iris_hue, like),
        paint("#080808", like),
    )
    rgb = skin
    for name, colour in (
        ("lip", red * 0.9),
        ("eye", eye),
        ("brow", dye * 0.35),
        ("hair", strand),
        ("beard", strand),
        ("cloth", materials.cloth(s, suit, head)),
        ("glasses", paint("#1c1a1a", like)),
    ):
        rgb = mix(rgb, colour, s.part(name))
    rgb = materials.lit(s, rgb)
    wet = s.part("eye") * (0.9 * ease(s.gleam, 0.985, 0.995)) + 0.2 * s.part("lip") * s.gleam**20
    return show(rgb + wet + 0.06 * s.gleam**12 * grin * s.key)
