"""The looks a procedural head can have: one module a style.

A style has two functions. `reshape(head, instance)` changes the head, `shade(surface, head,
instance)` colours the places where rays arrive, [3, N] in [0, 1]. The instance is 8 numbers in
(-1, 1), documented by each style.
"""

from eg3d_renderer.demo.styles import (
    bronze,
    cartoon,
    joker,
    natural,
    porcelain,
    sketch,
    statue,
    werewolf,
    zombie,
)

STYLES = {
    "natural": natural,
    "statue": statue,
    "bronze": bronze,
    "sketch": sketch,
    "cartoon": cartoon,
    "joker": joker,
    "zombie": zombie,
    "werewolf": werewolf,
    "porcelain": porcelain,
}
