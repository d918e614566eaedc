"""Rigs on a command line: "orbit:32,elevation=10" and what it means."""

from collections.abc import Callable
from typing import Any

from eg3d_renderer.errors import RendererError, suggest

EXAMPLES = {
    "orbit": "orbit:32,elevation=10",
    "grid": "grid:7x3,yaw=-45..45,elevation=-15..30",
    "spiral": "spiral:60,turns=2,elevation=-20..40",
    "random": "random:64,seed=3,yaw=-180..180,radius=2.5..3",
    "file": "file:cameras.json",
}


def parse_rig(text: str) -> dict[str, Any]:
    """The fields of a rig, as in a manifest's rig section and for `make_rig`.

    KIND:COUNT, then any of the kind's keywords: "orbit:32", "grid:7x3,yaw=-45..45" (columns x rows;
    a range from..to), "spiral:60,turns=2", "random:64,seed=3", with "pivot=0/0/0.2" (x/y/z), radius
    and focal for all of them; "file:cameras.json", or just a path that ends in .json.

    Raises RendererError, with the nearest known word and an example, where it cannot be read.
    Whether the rig can be made is `make_rig`'s to say.
    """
    kind, _, rest = text.partition(":")
    if kind == "file" and rest:
        return {"kind": "explicit", "file": rest}
    if kind not in EXAMPLES and text.endswith(".json"):
        return {"kind": "explicit", "file": text}
    if kind not in EXAMPLES:
        raise _complaint(text, f"no kind {kind!r}; {suggest(kind, EXAMPLES)}", "orbit")
    if kind == "file":
        raise _complaint(text, "names no file", kind)
    count, *options = rest.split(",")
    fields: dict[str, Any] = {"kind": kind}
    try:
        counts = [int(number) for number in count.split("x")]
        fields |= zip(COUNTS[kind], counts, strict=True)
    except ValueError:
        wanted = " x ".join(COUNTS[kind])
        raise _complaint(text, f"{count!r} is no number of {wanted}", kind) from None
    for option in options:
        name, _, value = option.partition("=")
        if name not in FORMS[kind]:
            raise _complaint(text, f"no {name!r}; {suggest(name, FORMS[kind])}", kind)
        if name in fields:
            raise _complaint(text, f"{name} is given twice", kind)
        try:
            fields[name] = FORMS[kind][name](value)
        except ValueError:
            raise _complaint(text, f"{name} cannot be {value!r}", kind) from None
    return fields


def _complaint(text: str, what: str, kind: str) -> RendererError:
    return RendererError(f"rig {text!r}: {what}; for example {EXAMPLES[kind]}")


def _range(text: str) -> tuple[float, float]:
    low, high = text.split("..")
    return float(low), float(high)


def _radius(text: str) -> float | tuple[float, float]:
    return _range(text) if ".." in text else float(text)


def _point(text: str) -> tuple[float, float, float]:
    x, y, z = text.split("/")
    return float(x), float(y), float(z)


COUNTS = {
    "orbit": ("views",),
    "grid": ("columns", "rows"),
    "spiral": ("views",),
    "random": ("views",),
}
COMMON: dict[str, Callable[[str], Any]] = {"radius": float, "pivot": _point, "focal": float}
FORMS: dict[str, dict[str, Callable[[str], Any]]] = {
    "orbit": COMMON | {"elevation": float},
    "grid": COMMON | {"yaw": _range, "elevation": _range},
    "spiral": COMMON | {"turns": float, "elevation": _range},
    "random": COMMON | {"radius": _radius, "seed": int, "yaw": _range, "elevation": _range},
}
