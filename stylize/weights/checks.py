"""What must hold of weights from elsewhere before they are used."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from stylize.config import StylizerError

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
SHOWN = 3  # names in an error


def check_tensor(tensor: Tensor, where: str) -> None:
    """Raises StylizerError, beginning with `where`, unless these are ordinary floating numbers."""
    if tensor.layout is not torch.strided or tensor.dtype not in DTYPES:
        kind = str(tensor.dtype).removeprefix("torch.")
        raise StylizerError(f"{where}: {kind} numbers (quantised?), expected floating point")


def check_state(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], source: str) -> None:
    """Raises StylizerError, naming `source`, unless names and shapes agree exactly."""
    for problem, wrong in (
        ("missing", [name for name in expected if name not in found]),
        ("unexpected", [name for name in found if name not in expected]),
    ):
        if wrong:
            raise StylizerError(f"{source}: {problem}: {list_names(wrong)}")
    for name, tensor in found.items():
        if tensor.shape != expected[name].shape:
            raise StylizerError(
                f"{source}: {name} has shape {tuple(tensor.shape)}, "
                f"expected {tuple(expected[name].shape)}"
            )


def list_names(names: Sequence[str]) -> str:
    """The first of them, and how many there are in all."""
    shown = ", ".join(ascii(name[:120])[1:-1] for name in names[:SHOWN])
    return shown if len(names) <= SHOWN else f"{shown}, ... ({len(names)} in all)"
