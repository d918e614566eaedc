"""Skin, eyes, hair and cloth: the albedos that several styles share; linear colours [3, N]."""

import torch
from torch import Tensor

from eg3d_renderer.demo.anatomy import MOUTH_Y, eye_frame
from eg3d_renderer.demo.colours import ease, hsv, mix, noise, paint, ramp, spot
from eg3d_renderer.demo.hair import hairline, nape
from eg3d_renderer.demo.heads import Head
from eg3d_renderer.demo.shading import Surface
from eg3d_renderer.demo.wear import neckline

SKINS = ("#6a4430", "#9a6644", "#c48e66", "#dfad86", "#eec5a5", "#f6d9c4")
HAIRS = ("#17110e", "#2b1a12", "#4a2d1a", "#6f4526", "#9c6a36", "#c99a58", "#d9c08c")
IRISES = ("#3a2313", "#5c3a1c", "#7a6a35", "#4f7a52", "#5b8fa8", "#7fa9d6")


def hair_colour(head: Head, like: Tensor) -> Tensor:
    """From black to blond; some are red, some grey."""
    colour = ramp(HAIRS, head.hair_tone, like)
    if head.hair_hue > 0.72:
        return mix(colour, paint("#a8441c", like), 0.65)
    if head.hair_hue < -0.78:
        return mix(paint("#5d5b5a", like), paint("#d6d3cd", like), 0.5 + 0.5 * head.hair_tone)
    return colour


def skin(s: Surface, head: Head) -> Tensor:
    """Skin with redder cheeks, nose and ears, freckles, stubble and the shade of shaven hair."""
    like, ax = s.x, s.x.abs()
    base = ramp(SKINS, head.skin_tone, like)
    base = mix(base, base * hsv(0.02 + 0.04 * head.skin_hue, 0.25, 1.0, like), 0.6)
    red = 0.55 * spot(ax, s.y, s.z, (0.40, -0.30, 0.52), 0.36)
    red += 0.6 * spot(s.x, s.y, s.z, (0, head.nose_y, head.nose_z), 0.26)
    red += 0.5 * spot(ax, s.y, s.z, (head.cranium[0] + 0.12, -0.1, -0.2), 0.32)
    red += 0.12 * noise(s.x, s.y, s.z, 7.0)
    rgb = mix(
        base, base * paint("#ff9c8c", like), (red * (0.6 + 0.25 * head.skin_tone)).clamp_(0, 1)
    )
    if head.freckles:
        dots = ease(noise(s.x, s.y, s.z, 36.0), 0.35, 0.6)
        where = spot(ax, s.y, s.z, (0.22, -0.22, 0.78), 0.42)
        rgb = mix(rgb, base * paint("#b5744c", like), dots * where * head.freckles)
    hair = hair_colour(head, like)
    if head.male > 0.1:
        jaw = ease(s.y + 0.32 * s.z, -0.20, -0.50) * ease(s.z, -0.1, 0.3)
        jaw = jaw * ease(s.y, -1.3, -1.12)
        rgb = mix(rgb, hair, 0.22 * min(1.0, head.male + 0.2) * jaw)
    if head.haircut == "shaven":
        opening = hairline(s.x, ax, s.y, s.z, width=0.60, height=0.70, depth=0.08)
        bristle = ease(torch.maximum(-opening, nape(s.y, s.z)), 0.03, -0.05)
        rgb = mix(rgb, hair, 0.45 * bristle * ease(ax, head.cranium[0] + 0.07, head.cranium[0]))
    return rgb


def lashes(s: Surface, head: Head) -> Tensor:
    """How much of the lids' edges is lash, [N]."""
    ex, ey, ez = eye_frame(s.x.abs(), s.y, s.z, head)
    ball = (ex * ex).addcmul_(ey, ey).addcmul_(ez, ez).sqrt_() - head.eye_radius
    near = ease(ball, 0.045, 0.03) * (ez > 0)
    upper = ease((ey - ez * head.lid_up).abs_(), 0.03, 0.012)
    lower = 0.5 * ease((ey + ez * head.lid_down).abs_(), 0.022, 0.008)
    return near * torch.maximum(upper, lower)


def eye(s: Surface, head: Head, white: Tensor, iris: Tensor, pupil: Tensor) -> Tensor:
    """The eyeball: white with redder corners, iris with a dark rim, pupil, shade of the lid."""
    ex, ey, ez = eye_frame(s.x.abs(), s.y, s.z, head)
    r = (ex * ex).addcmul_(ey, ey).sqrt_() / head.iris
    spokes = 0.12 * (torch.atan2(ey, ex) * 13).sin_()
    inner = iris * (0.75 + spokes + 0.7 * ease(r, 0.9, 0.45) - 0.25 * ease(ey, -0.03, 0.06))
    inner = mix(inner, iris * 0.25, ease(r, 0.78, 1.0))
    inner = mix(inner, pupil, ease(r, 0.50, 0.40))
    ball = mix(white, white * paint("#e8b0a0", s.x), 0.5 * ease(ex.abs(), 0.07, 0.14))
    ball = mix(ball, inner, ease(r, 1.06, 0.96) * (ez > 0))
    lid_shade = ease(ez * head.lid_up - ey, -0.005, 0.055)
    return ball * (0.42 + 0.58 * lid_shade)


def strands(s: Surface, head: Head) -> tuple[Tensor, Tensor]:
    """Light and dark along the hair, about [-1, 1], and the sheen across it, [0, 1]; [N].

    The sheen is Kajiya and Kay's ("Rendering fur with three dimensional textures", 1989).
    """
    if head.haircut == "curly":
        return noise(s.x, s.y, s.z, 16.0), s.gleam**12 * 0.3
    if head.haircut in ("bun", "ponytail"):
        across, along = torch.atan2(s.x, s.y + 0.2), 2
        bend = s.z
    elif head.haircut in ("parted", "short"):  # from the whorl, at the top of the back
        across = torch.atan2(s.x, 0.52 * (s.y - 0.3) + 0.85 * (s.z + 0.15))
        along, bend = 2, s.y + s.x
    else:
        across, along = torch.atan2(s.x, -0.15 - s.z), 1
        bend = s.y
    lines = torch.zeros_like(s.x)
    for frequency, weight in ((17, 0.40), (31, 0.35), (53, 0.25)):
        lines += weight * (across * frequency + 1.1 * (bend * 5 + frequency).sin_()).sin_()
    # the strand's direction: an axis, laid into the surface
    lay = s.half[along] - s.normal[along] * s.gleam
    lay = lay / (1 - s.normal[along] ** 2).clamp_min_(0.05).sqrt_()
    return lines, (1 - lay * lay).clamp_(0, 1) ** 14


def hair(s: Surface, colour: Tensor, head: Head, gloss: float = 0.5) -> Tensor:
    lines, sheen = strands(s, head)
    rgb = colour * (0.85 + 0.42 * lines)
    return rgb + (colour * 0.9 + 0.03) * sheen * (0.6 + 0.4 * lines) * gloss


def cloth(s: Surface, colour: Tensor, head: Head) -> Tensor:
    """A shirt with a ribbed collar."""
    edge = neckline(s.y, s.z, head)
    collar = ease(edge, -0.13, -0.11)
    weave = 1 + 0.05 * (s.x * 70).sin_() * (s.y * 70).sin_()
    return mix(colour * weave, colour * 0.62, collar * (0.7 + 0.3 * (s.x * 60).sin_()))


def mouth(s: Surface, head: Head) -> tuple[Tensor, Tensor]:
    """Coordinates across and above the line between the lips, the smile undone."""
    return s.x, s.y - MOUTH_Y - head.smile * s.x * s.x


def lit(s: Surface, albedo: Tensor, *, fill: float = 1.0, key: float = 1.0) -> Tensor:
    """Soft daylight: a warm key light, a cool sky, a rim of light from behind."""
    warm, cool = paint("#fff3e4", s.x), paint("#e6efff", s.x)
    sky = (0.08 + 0.92 * s.occlusion) * (0.30 + 0.28 * s.sky)
    return albedo * (
        cool * (fill * sky) + warm * (0.76 * key * s.key) + cool * (0.34 * s.back * s.occlusion)
    )
