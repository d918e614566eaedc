"""Folders that appear whole, and weights that are checked before they are used."""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from stylize.config import StylizerError

SHOWN = 3  # names in an error


@contextmanager
def name_write_errors(path: Path) -> Iterator[None]:
    """Turn a failing file operation into a StylizerError that names `path` and the reason."""
    try:
        yield
    except OSError as error:
        raise StylizerError(f"{path}: cannot write ({error.strerror or error})") from None


@contextmanager
def replaced_folder(folder: Path) -> Iterator[Path]:
    """A fresh folder to write into, beside `folder`; on success it takes the name `folder`.

    On an exception it is removed and `folder` stays as it was. Left-overs of killed processes are
    removed by the next writer of the same name. Raises StylizerError where writing fails.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    old = folder.with_name(f".{folder.name}.old")
    with name_write_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        for leftover in (partial, old):
            shutil.rmtree(leftover, ignore_errors=True)
        try:
            partial.mkdir()
            yield partial
            for path in partial.iterdir():
                # safetensors creates files that only their owner can read
                path.chmod(partial.stat().st_mode & 0o666)
                with path.open("rb") as file:
                    os.fsync(file.fileno())
            if folder.exists():
                folder.rename(old)
            partial.rename(folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        shutil.rmtree(old, ignore_errors=True)


def load_state(path: Path, expected: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The safetensors file at `path`, which must hold `expected`'s names and shapes exactly.

    Raises StylizerError on a missing, unexpected or misshapen tensor, or an unreadable file.
    """
    try:
        state = load_file(path)
    except FileNotFoundError:
        raise StylizerError(f"{path}: no such file") from None
    except (OSError, SafetensorError) as error:
        raise StylizerError(f"{path}: not a readable safetensors file ({error})") from None
    check_state(state, expected, str(path))
    return state


def check_state(
    found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor], source: str
) -> None:
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
