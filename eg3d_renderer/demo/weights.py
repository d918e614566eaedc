"""The trained demo generator: all of its styles in one folder of the package.

config.json, model.safetensors   the natural style: a checkpoint like any other
styles.safetensors               STYLE/TENSOR: what another style has of its own
manifest.json                    the styles, and the SHA-256 of the other files
"""

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from eg3d_renderer.checkpoints import Checkpoint, read_folder, save_checkpoint
from eg3d_renderer.checkpoints.folders import CONFIG, MODEL
from eg3d_renderer.errors import RendererError

FOLDER = Path(__file__).parent / "weights"
NATURAL = "natural"
STYLES, MANIFEST = "styles.safetensors", "manifest.json"
HASHED = CONFIG, MODEL, STYLES
REPAIR = "train it by 'make demo-weights', or install a package that has it whole"


def save_styles(checkpoints: Mapping[str, Checkpoint], folder: str | Path) -> None:
    """Write the checkpoints of all styles, by name, "natural" among them, as one folder.

    Of the others only the tensors that are not natural's are kept. The folder takes its name when
    it is whole, in place of one that was there. Raises RendererError for checkpoints that are not
    of one network, a folder of something else, or a failing disk.
    """
    folder = Path(folder).absolute()
    natural = checkpoints.get(NATURAL)
    if natural is None:
        raise RendererError(f"{folder}: no style {NATURAL!r} among {', '.join(checkpoints)}")
    own: dict[str, Tensor] = {}
    for style, checkpoint in checkpoints.items():
        _check_alike(style, checkpoint, natural)
        for name, tensor in checkpoint.state.items():
            if not torch.equal(tensor, natural.state[name]):
                own[f"{style}/{name}"] = tensor
    partial = folder.with_name(f".{folder.name}.partial")
    replaced = folder.with_name(f".{folder.name}.replaced")
    try:
        if folder.exists() and not (folder / MANIFEST).is_file():
            raise RendererError(f"{folder}: exists, and holds no demo weights; name another folder")
        for left in (partial, replaced):
            shutil.rmtree(left, ignore_errors=True)
        save_checkpoint(natural, partial)
        save_file(own, partial / STYLES)
        manifest = {
            "styles": list(checkpoints),
            "sha256": {name: _sha256(partial / name) for name in HASHED},
        }
        (partial / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        for path in partial.iterdir():
            # safetensors creates files that only their owner can read
            path.chmod(partial.stat().st_mode & 0o666)
            with path.open("rb") as file:
                os.fsync(file.fileno())
        if folder.exists():
            folder.rename(replaced)
        partial.rename(folder)
        shutil.rmtree(replaced, ignore_errors=True)
    except OSError as error:
        raise RendererError(f"{folder}: cannot write ({error.strerror or error})") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def style_names(folder: Path = FOLDER) -> tuple[str, ...]:
    """The styles in a folder of `save_styles`. Raises RendererError where there are none."""
    return tuple(_read_manifest(folder)["styles"])


def read_style(style: str, folder: Path = FOLDER) -> Checkpoint:
    """One of the styles, in half precision as it is kept.

    Raises RendererError, naming the file, where one is missing or not as it was written.
    """
    manifest = _read_manifest(folder)
    for name in HASHED:
        path = folder / name
        try:
            found = _sha256(path)
        except OSError as error:
            raise RendererError(f"{path}: {error.strerror or error}; {REPAIR}") from None
        if found != manifest["sha256"][name]:
            raise RendererError(f"{path}: damaged, its SHA-256 is not that of {MANIFEST}; {REPAIR}")
    checkpoint = read_folder(folder)
    own = {
        name.removeprefix(f"{style}/"): tensor
        for name, tensor in load_file(folder / STYLES).items()
        if name.startswith(f"{style}/")
    }
    return dataclasses.replace(checkpoint, state=checkpoint.state | own)


def _check_alike(style: str, checkpoint: Checkpoint, natural: Checkpoint) -> None:
    layouts = [
        {name: (tensor.shape, tensor.dtype) for name, tensor in of.state.items()}
        for of in (checkpoint, natural)
    ]
    if checkpoint.settings() != natural.settings() or layouts[0] != layouts[1]:
        raise RendererError(f"style {style!r}: not a checkpoint of the same network as {NATURAL!r}")


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        whole = NATURAL in manifest["styles"] and set(manifest["sha256"]) == set(HASHED)
    except OSError as error:
        raise RendererError(f"{path}: {error.strerror or error}; {REPAIR}") from None
    except (ValueError, LookupError, TypeError):
        whole = False
    if not whole:
        raise RendererError(f"{path}: damaged; {REPAIR}")
    return manifest


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
