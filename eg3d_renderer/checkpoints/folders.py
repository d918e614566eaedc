"""A checkpoint as a folder anyone can open: config.json and model.safetensors."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from eg3d_renderer.checkpoints.checkpoint import (
    FAMILIES,
    Checkpoint,
    check_finite,
    check_json,
    find_family,
)
from eg3d_renderer.errors import RendererError

FORMAT = 1
CONFIG, MODEL = "config.json", "model.safetensors"


def save_checkpoint(checkpoint: Checkpoint, folder: str | Path) -> None:
    """Write `checkpoint` as folder/config.json and folder/model.safetensors.

    Each file takes its name once it is whole, config.json last. Raises RendererError for a setting
    that JSON cannot hold (the key is named), a folder that has a checkpoint, or a failing disk.
    """
    folder = Path(folder)
    config = {"format": FORMAT, **checkpoint.settings()}
    check_json(config, "checkpoint")
    text = json.dumps(config, indent=2) + "\n"
    try:
        for name in (MODEL, CONFIG):
            if (folder / name).exists():
                raise RendererError(f"{folder / name}: exists; name another folder, or remove it")
        folder.mkdir(parents=True, exist_ok=True)
        _replace(folder / MODEL, lambda partial: partial.write_bytes(save(checkpoint.state)))
        _replace(folder / CONFIG, lambda partial: partial.write_text(text, encoding="utf-8"))
    except (OSError, SafetensorError) as error:
        raise RendererError(f"{folder}: cannot write ({error})") from None


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    partial = path.with_name(f".{path.name}.partial")
    try:
        write(partial)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.rename(path)
    finally:
        partial.unlink(missing_ok=True)


def read_folder(path: str | Path) -> Checkpoint:
    """The checkpoint in a folder, named itself or by its model.safetensors.

    Raises RendererError, naming the file and the key, for anything `save_checkpoint` does not
    write.
    """
    path = Path(path)
    if path.name == MODEL:
        path = path.parent
    config = _read_config(path / CONFIG)
    model = path / MODEL
    try:
        state = load_file(model)
    except FileNotFoundError:
        raise RendererError(f"{model}: no such file") from None
    except (OSError, SafetensorError) as error:
        raise RendererError(f"{model}: not a readable safetensors file ({error})") from None
    family = find_family(state, str(model))
    if family != config["family"]:
        raise RendererError(
            f"{path / CONFIG}: family is {config['family']}, but {MODEL} is of {family}"
        )
    check_finite(state, str(model))
    return Checkpoint(**config, state=state)


def digest(checkpoint: Checkpoint) -> str:
    """sha256 (hex) of the settings and every tensor: the same for a .pkl and its conversion.

    Raises RendererError for a setting that JSON cannot hold.
    """
    settings = checkpoint.settings()
    check_json(settings, "checkpoint")
    sha = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, tensor in sorted(checkpoint.state.items()):
        header = json.dumps([name, str(tensor.dtype), list(tensor.shape)])
        sha.update(f"\n{header}\n".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


def _read_config(path: Path) -> dict[str, Any]:
    """The settings: the arguments of a Checkpoint but `state`."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RendererError(f"{path}: no such file") from None
    except OSError as error:
        raise RendererError(f"{path}: cannot read ({error.strerror or error})") from None
    except (ValueError, RecursionError) as error:
        raise RendererError(f"{path}: not JSON ({error})") from None
    if not isinstance(config, dict):
        raise RendererError(f"{path}: not a JSON object")
    if config.pop("format", None) != FORMAT:
        raise RendererError(f"{path}: format: this version reads {FORMAT} only")
    for name in (*CHECKS, *config):
        if name not in config:
            raise RendererError(f"{path}: {name}: missing")
        if name not in CHECKS:
            raise RendererError(f"{path}: {name!a}: not a key of format {FORMAT}")
        holds, expected = CHECKS[name]
        if not holds(config[name]):
            raise RendererError(f"{path}: {name}: expected {expected}")
    check_json(config, str(path))
    return config


def _is_cube(value: Any, depth: int = 3) -> bool:
    """Whether `value` is a list of 3 lists of 3 lists of 3 floats."""
    if not depth:
        return isinstance(value, float)
    return (
        isinstance(value, list) and len(value) == 3 and all(_is_cube(v, depth - 1) for v in value)
    )


CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "family": (lambda value: value in FAMILIES, f"one of {', '.join(FAMILIES)}"),
    "init_kwargs": (lambda value: isinstance(value, dict), "an object"),
    "rendering_kwargs": (lambda value: isinstance(value, dict), "an object"),
    "neural_rendering_resolution": (
        lambda value: type(value) is int and value > 0,
        "a positive whole number",
    ),
    "plane_axes": (lambda value: value is None or _is_cube(value), "null or [3, 3, 3] floats"),
}
