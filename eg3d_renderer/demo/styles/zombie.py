"""The undead. Instance: 0 colour of the flesh (olive, green, grey, blue), 1 spread of the rot, 2
colour of the rot, 3 glow of the eyes, 4 gauntness, 5 grime."""

import dataclasses

from torch import Tensor

from eg3d_renderer.demo.colours import ease, hsv, mix, noise, paint, ramp, show, spot
from eg3d_renderer.demo.heads import Head
from eg3d_renderer.demo.shading import Surface
from eg3d_renderer.demo.styles import materials

FLESH = ("#8c9a58", "#6f9a5c", "#8fa08a", "#7d93a0")
ROT = ("#5a2018", "#4a2a1a", "#3b3420", "#43203c")
EYES = ("#e8e4d0", "#f0d860", "#f08a30")


def reshape(head: Head, instance: list[float]) -> Head:
    return dataclasses.replace(
        head,
        socket=0.245 + 0.01 * instance[4],
        fullness=head.fullness - 0.09 - 0.03 * instance[4],
        cheekbone=head.cheekbone + 0.02,
        lid_up=head.lid_up - 0.06,
        lid_down=head.lid_down + 0.06,
        smile=head.smile - 1.2,
        brow_slope=head.brow_slope - 0.12,
        brow_ridge=head.brow_ridge + 0.015,
        lip=head.lip * 0.8,
        neck=head.neck - 0.03,
        glasses=0.0,
    )


def shade(s: Surface, head: Head, instance: list[float]) -> Tensor:
    """Colours [3, N] in [0, 1]."""
    like, ax = s.x, s.x.abs()
    flesh = ramp(FLESH, instance[0], like) * (0.92 + 0.10 * head.skin_tone)
    coarse, fine = noise(s.x, s.y, s.z, 3.6, 1.0), noise(s.x, s.y, s.z, 12.0, 2.0)
    skin = flesh * (1 + 0.16 * fine)
    veins = ease(noise(s.x, s.y, s.z, 6.5, 5.0).abs_(), 0.10, 0.02)
    skin = mix(skin, flesh * paint("#6a5a90", like), 0.55 * veins)
    rot = ease(coarse + 0.35 * fine, 0.60 - 0.25 * instance[1], 0.72 - 0.25 * instance[1])
    rim = ease(coarse + 0.35 * fine, 0.42 - 0.25 * instance[1], 0.60 - 0.25 * instance[1])
    skin = mix(skin, flesh * paint("#b0704c", like), 0.6 * rim)
    skin = mix(skin, ramp(ROT, instance[2], like) * (1 + 0.4 * fine), rot)
    hollow = spot(ax, s.y, s.z, (head.eye_x, -0.02, 0.74), 0.30)
    skin = mix(skin, paint("#2a1c26", like), 0.75 * hollow)
    skin = mix(skin, paint("#100a0a", like), 0.8 * materials.lashes(s, head))
    eye = materials.eye(
        s, head, paint("#d8d2b0", like), ramp(EYES, instance[3], like), paint("#3a0a06", like)
    )
    dull = mix(materials.hair_colour(head, like), paint("#3c3a30", like), 0.65)
    strand = materials.hair(s, dull, head, gloss=0.1) * (1 + 0.3 * coarse)
    rag = mix(hsv(0.1 + 0.3 * head.cloth_hue, 0.25, 0.38, like), paint("#2e261c", like), 0.4)
    dirt = ease(coarse + fine * 0.5, 0.1 - 0.4 * instance[5], 0.7 - 0.4 * instance[5])
    rag = materials.cloth(s, rag, head) * (1 - 0.6 * dirt)
    rgb = skin
    for name, colour in (
        ("lip", mix(flesh * 0.35, paint("#3c1c22", like), 0.5)),
        ("eye", eye),
        ("brow", dull * 0.5),
        ("hair", strand),
        ("beard", strand),
        ("cloth", rag),
        ("hat", mix(rag, hsv(0.5 * head.hat_hue, 0.4, 0.34, like), 0.6)),
    ):
        rgb = mix(rgb, colour, s.part(name))
    glow = s.part("eye") * (0.35 + 0.25 * instance[3])
    rgb = mix(materials.lit(s, rgb), rgb, glow)
    return show(rgb + 0.05 * s.part("skin") * s.gleam**14 * s.key)
