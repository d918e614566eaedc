"""A stylizer's folder written tensor by tensor, so that memory never holds all of it."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from stylize.config import StylizerConfig, StylizerError
from stylize.storage import replaced_folder

NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
ALIGNMENT = 8  # of the first tensor's bytes in a safetensors file


def write_stylizer(
    folder: Path,
    config: StylizerConfig,
    state: Mapping[str, Tensor],
    dtype: torch.dtype,
    origin: Callable[[str], str],
) -> None:
    """Write what `DiffStyle360.from_pretrained` reads, every tensor of `state` as `dtype`.

    `origin` says in errors where the tensor of a name is from. The folder appears or is replaced
    whole. Raises StylizerError on an infinity or a NaN, on numbers that `dtype` cannot hold, and
    where writing fails.
    """
    with replaced_folder(folder) as partial:
        (partial / "config.json").write_text(config.to_json())
        with (partial / "model.safetensors").open("wb") as file:
            _write_header(file, state, dtype)
            for name, tensor in state.items():
                converted = tensor.detach().to(dtype).contiguous()
                if not converted.isfinite().all():
                    raise StylizerError(_explain(f"{origin(name)}: {name}", tensor, dtype))
                file.write(converted.reshape(-1).view(torch.uint8).numpy().data)


def _write_header(file: BinaryIO, state: Mapping[str, Tensor], dtype: torch.dtype) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in state.items():
        begin, end = end, end + tensor.numel() * dtype.itemsize
        header[name] = {
            "dtype": NAMES[dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]
        }  # fmt: skip
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    file.write(len(text).to_bytes(8, "little") + text)


def _explain(where: str, tensor: Tensor, dtype: torch.dtype) -> str:
    if not tensor.isfinite().all():
        return f"{where} holds infinities or NaNs; training diverged?"
    kind = str(dtype).removeprefix("torch.")
    return f"{where} holds numbers too large for {kind}; take bfloat16 or float32"
