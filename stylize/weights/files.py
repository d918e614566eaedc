"""Tensors out of files from elsewhere: mapped, not read, and nothing in a file is executed."""

import json
import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from stylize.config import StylizerError

NOT_WEIGHTS = (  # first bytes, what the file is
    (b"version https://git-lfs", "a git-lfs pointer, not the file itself; run 'git lfs pull'"),
    (b"<", "a web page saved under this name; download the file itself"),
    (b"\x89HDF", "an HDF5 file (Keras?), not torch's"),
    (b"GGUF", "a GGUF file, not torch's or safetensors"),
)
# what training scripts leave beside the weights, and pickles name: all become one inert object
HARMLESS = (
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    "lightning.pytorch.callbacks.model_checkpoint.ModelCheckpoint",
    "argparse.Namespace",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
)
WRAPPERS = ("state_dict", "model_state_dict")  # what training scripts call it
PARALLEL = "module."  # DistributedDataParallel's


class Inert:
    """Stands in for an object of another library; takes whatever it is made of and drops it."""

    def __init__(self, *arguments: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Every tensor in a .safetensors, .ckpt, .pth, .th or .bin file, by name.

    The kind is told by the content. One of `WRAPPERS` around the tensors and a `module.` before
    every name are taken off. Tensors are views of the mapped file: it must not change while they
    live (old files, from before torch 1.6, are read into memory). Raises StylizerError, naming the
    file, for anything that is not a whole file of weights or would run code.
    """
    head = _read_head(path)
    for start, what in NOT_WEIGHTS:
        if head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(start):
            raise StylizerError(f"{path}: {what}")
    content = _open_safetensors(path) if head[8:9] == b"{" else _open_torch(path, head)
    tensors = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        names = ", ".join(ascii(name)[:40] for name in [*content][:8]) or "nothing"
        raise StylizerError(f"{path}: no tensors in it, only {names}")
    if all(name.startswith(PARALLEL) for name in tensors):
        tensors = {name.removeprefix(PARALLEL): tensor for name, tensor in tensors.items()}
    return tensors


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises StylizerError, naming the file, for anything else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StylizerError(f"{path}: cannot read ({error.strerror or error})") from None
    except (ValueError, RecursionError) as error:
        raise StylizerError(f"{path}: not JSON ({error})") from None
    if not isinstance(content, dict):
        raise StylizerError(f"{path}: not a JSON object")
    return content


def _read_head(path: Path) -> bytes:
    try:
        if not path.is_file():
            what = "not a file" if path.exists() else "no such file"
            raise StylizerError(f"{path}: {what}")
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise StylizerError(f"{path}: cannot read ({error.strerror or error})") from None
    if not head:
        raise StylizerError(f"{path}: empty; download it again")
    return head


def _open_safetensors(path: Path) -> dict[str, Any]:
    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            return {name: file.get_tensor(name) for name in names}
    except (OSError, SafetensorError) as error:
        raise StylizerError(
            f"{path}: not a whole safetensors file ({error}); download it again"
        ) from None


def _open_torch(path: Path, head: bytes) -> dict[str, Any]:
    zipped = head.startswith(b"PK\x03\x04")
    stand_ins: list[Any] = [(Inert, name) for name in HARMLESS]
    try:
        with torch.serialization.safe_globals(stand_ins), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old protocols and storages: not the user's to mend
            content = torch.load(path, "cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        raise StylizerError(f"{path}: {_explain(str(error))}") from None
    except Exception as error:  # whatever damage does to zip or pickle
        reason = " ".join(str(error).split(". ")[0].split())[:100] or type(error).__name__
        raise StylizerError(
            f"{path}: damaged, or no torch checkpoint ({reason}); download it again"
        ) from None
    for wrapper in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise StylizerError(f"{path}: not a dict of named tensors")
    return content


def _explain(message: str) -> str:
    """torch's paragraphs on why a pickle was refused, as a line."""
    if named := re.search(r"GLOBAL (\S+)", message):
        return (
            f"it asks for {ascii(named[1])[1:-1]}, which was refused and not run; "
            "use a .safetensors file of these weights"
        )
    said = re.search(r"Unsupported operand \d+|(Can only|Trying to) [^\n]{1,80}", message)
    reason = said[0] if said else "damaged"
    return f"not a checkpoint, or one that cannot be read without running it ({reason})"
