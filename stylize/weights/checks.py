"""What must hold of weights from elsewhere before they are used."""

import torch
from torch import Tensor

from stylize.config import StylizerError

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def check_tensor(tensor: Tensor, where: str) -> None:
    """Raises StylizerError, beginning with `where`, unless these are ordinary floating numbers."""
    if tensor.layout is not torch.strided or tensor.dtype not in DTYPES:
        kind = str(tensor.dtype).removeprefix("torch.")
        raise StylizerError(f"{where}: {kind} numbers (quantised?), expected floating point")
