"""People: skin, hair, eyes and cloth in their own colours. The instance changes nothing."""

from torch import Tensor

from eg3d_renderer.demo.colours import ease, hsv, mix, paint, ramp, show
from eg3d_renderer.demo.heads import Head
from eg3d_renderer.demo.shading import Surface
from eg3d_renderer.demo.styles import materials


def reshape(head: Head, instance: list[float]) -> Head:
    return head


def shade(s: Surface, head: Head, instance: list[float]) -> Tensor:
    """Colours [3, N] in [0, 1]."""
    like = s.x
    skin = materials.skin(s, head)
    hair = materials.hair_colour(head, like)
    lip = skin * ramp(("#e08c86", "#d9706e"), -head.male, like)
    skin = mix(skin, paint("#20130f", like), 0.85 * materials.lashes(s, head))
    eye = materials.eye(
        s,
        head,
        paint("#f2eeea", like),
        ramp(materials.IRISES, head.iris_hue, like),
        paint("#0a0808", like),
    )
    cloth = hsv(0.58 + 0.42 * head.cloth_hue, 0.45, 0.52 + 0.25 * head.cloth_tone, like)
    felt = hsv(0.5 * head.hat_hue, 0.48 + 0.2 * head.neckline, 0.5 - 0.2 * head.cloth_tone, like)
    strand = materials.hair(s, hair, head)
    rgb = skin
    for name, colour in (
        ("lip", lip),
        ("eye", eye),
        ("brow", mix(strand, hair * 0.6, 0.6)),
        ("hair", strand),
        ("beard", mix(strand, hair, 0.4)),
        ("cloth", materials.cloth(s, cloth, head)),
        ("glasses", paint("#221d1b", like)),
        ("hat", felt * (0.9 + 0.1 * (s.y * 90).sin_())),
    ):
        rgb = mix(rgb, colour, s.part(name))
    rgb = materials.lit(s, rgb)
    wet = s.part("eye") * (0.9 * ease(s.gleam, 0.985, 0.995)) + 0.10 * s.part("lip") * s.gleam**24
    sheen = 0.05 * s.part("skin") * s.gleam**10 * s.key
    return show(rgb + wet + sheen)
