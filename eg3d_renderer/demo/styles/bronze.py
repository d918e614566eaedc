"""Cast metal. Instance: 0 alloy (copper, bronze, brass, gold, pewter), 1 patina, 2 colour of the
patina (green to blue), 3 polish, 4 darkness."""

from torch import Tensor

from eg3d_renderer.demo.anatomy import eye_frame
from eg3d_renderer.demo.colours import ease, mix, noise, paint, ramp, show
from eg3d_renderer.demo.heads import Head
from eg3d_renderer.demo.shading import Surface
from eg3d_renderer.demo.styles import materials

ALLOYS = ("#b5603c", "#a06a3c", "#b78a45", "#d9b04c", "#9a9c9e")
PATINAS = ("#5f9a78", "#58a49a", "#5c94ac")


def reshape(head: Head, instance: list[float]) -> Head:
    return head


def shade(s: Surface, head: Head, instance: list[float]) -> Tensor:
    """Colours [3, N] in [0, 1]."""
    like = s.x
    metal = ramp(ALLOYS, instance[0], like) * (0.9 - 0.3 * instance[4])
    lines, _ = materials.strands(s, head)
    carved = s.part("hair") + s.part("beard") + s.part("brow")
    groove = 1 - carved * (0.25 - 0.3 * lines).clamp_(0, 0.55)
    ex, ey, _ = eye_frame(like.abs(), s.y, s.z, head)
    r = (ex * ex).addcmul_(ey, ey).sqrt_() / head.iris
    groove = groove * (1 - 0.75 * s.part("eye") * ease(r, 0.55, 0.4))
    # a dark studio with a light ceiling
    ceiling = ease(s.normal[1] + 0.35 * s.normal[2], -0.2, 0.9)
    fresnel = (1 - s.facing) ** 4
    light = s.occlusion * (0.10 + 0.35 * ceiling + 0.35 * fresnel) + 0.45 * s.key + 0.2 * s.back
    polish = 30 + 20 * instance[3]
    rgb = (
        metal * groove * light
        + mix(metal, paint("#fff4dc", like), 0.4)
        * (0.9 * s.gleam**polish + 0.35 * s.gleam**8)
        * groove
        * s.key
    )
    rough = noise(s.x, s.y, s.z, 5.0)
    age = ease(s.occlusion + 0.22 * rough - 0.25 * instance[1], 0.75, 0.25)
    age = (age + 0.6 * ease(rough + 0.8 * instance[1], 0.5, 1.2)).clamp_(0, 1)
    aged = materials.lit(s, ramp(PATINAS, instance[2], like)) * groove
    return show(mix(rgb, aged, age * (0.6 + 0.3 * instance[1])))
