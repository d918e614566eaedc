"""What a checkpoint is, wherever it was read from."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from eg3d_renderer.errors import RendererError

FAMILIES = ("eg3d", "panohead", "spherehead")
MAX_DEPTH = 32  # of settings in settings


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A trained generator: its settings and its weights, under upstream's names.

    `init_kwargs` does not repeat `rendering_kwargs`; both hold only what JSON can. `plane_axes` is
    [3, 3, 3], or None where the renderer stores none. `state` is what `load_state_dict` takes:
    contiguous, finite tensors on the CPU that share no memory.
    """

    family: str  # one of FAMILIES
    init_kwargs: dict[str, Any]
    rendering_kwargs: dict[str, Any]
    neural_rendering_resolution: int
    plane_axes: list[list[list[float]]] | None
    state: dict[str, Tensor]

    def settings(self) -> dict[str, Any]:
        """Everything but the weights."""
        return {name: value for name, value in vars(self).items() if name != "state"}


def find_family(names: Iterable[str], source: str) -> str:
    """The family a generator with these tensors belongs to.

    Raises RendererError, naming `source`, if it is none of FAMILIES.
    """
    names = set(names)
    if "ConvA.0.weight" in names:
        return "spherehead"
    if names & {"bcg_synthesis.b4.const", "t_mapping.w_avg"}:
        return "panohead"
    if "backbone.synthesis.b4.const" in names:
        return "eg3d"
    raise RendererError(
        f"{source}: not a generator of EG3D, PanoHead or SphereHead "
        "(no tensor backbone.synthesis.b4.const)"
    )


def check_finite(state: dict[str, Tensor], source: str) -> None:
    """Raises RendererError, naming the tensor, where one holds an infinity or a NaN."""
    for name, tensor in state.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise RendererError(f"{source}: {name} holds infinities or NaNs; training diverged?")


def check_json(settings: dict[str, Any], source: str) -> None:
    """Raises RendererError, naming the key, where a setting is something JSON cannot hold."""
    for name, value in settings.items():
        _check_json(value, f"{source}: {name}", 0)


def _check_json(value: Any, where: str, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise RendererError(f"{where}: nested more than {MAX_DEPTH} deep")
    match value:
        case None | bool() | int() | str():
            return
        case float() if math.isfinite(value):
            return
        case list():
            for index, item in enumerate(value):
                _check_json(item, f"{where}[{index}]", depth + 1)
            return
        case dict() if all(isinstance(key, str) for key in value):
            for key, item in value.items():
                shown = key if key.isprintable() else ascii(key)
                _check_json(item, f"{where}.{shown}", depth + 1)
            return
    what = value if isinstance(value, float) else f"a {type(value).__name__}"
    raise RendererError(f"{where}: {what} cannot be written as JSON")
