"""Published weight files for the networks here."""

from collections.abc import Iterable
from pathlib import Path

import torch

from stylize.config import StylizerError
from stylize.storage import check_state
from stylize.weights.checks import check_tensor
from stylize.weights.files import read_tensors


def read_finite(path: Path, wanted: Iterable[str] = ("",)) -> dict[str, torch.Tensor]:
    """The file's tensors whose names start with one of `wanted`, as float32.

    Raises StylizerError where the file cannot be read, has none of them, or one is not finite.
    """
    starts = tuple(wanted)
    tensors = {n: t for n, t in read_tensors(path).items() if n.startswith(starts)}
    if not tensors:
        raise StylizerError(f"{path}: no tensor {' or '.join(starts)} in it; is it the right file?")
    for name, tensor in tensors.items():
        check_tensor(tensor, f"{path}: {name}")
        if not tensor.isfinite().all():
            raise StylizerError(f"{path}: {name} is not finite")
    return {name: tensor.float() for name, tensor in tensors.items()}


def fill(module: torch.nn.Module, state: dict[str, torch.Tensor], path: Path) -> None:
    """Load exactly the module's tensors; it is for inference from then on.

    Raises StylizerError where names or shapes differ.
    """
    check_state(state, module.state_dict(), str(path))
    module.load_state_dict(state)
    module.eval().requires_grad_(False)
