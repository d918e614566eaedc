"""The .pkl files NVIDIA and the authors of PanoHead and SphereHead publish, read as data.

The file is a pickled dict of networks; `G_ema` is the generator. A network is either

    _reconstruct_persistent_obj({type, version, module_src, class_name, state})

whose module_src, source code that upstream executes, is dropped here, or a plain torch module with
its state. `state` is the module's __dict__: _parameters, _buffers, _modules, and attributes.
"""

import mmap
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from eg3d_renderer.checkpoints.checkpoint import (
    MAX_DEPTH,
    Checkpoint,
    check_finite,
    check_json,
    find_family,
)
from eg3d_renderer.checkpoints.pickles import MAX_STEPS, Budget, Call, load
from eg3d_renderer.checkpoints.storages import GLOBALS, as_bytes, read_tensor
from eg3d_renderer.errors import RendererError

PERSISTENT = "torch_utils.persistence._reconstruct_persistent_obj"
MODULES = frozenset(
    {
        "torch.nn.modules.activation.Softplus",
        "torch.nn.modules.container.Sequential",
        "training.triplane.OSGDecoder",
        "training.volumetric_rendering.ray_marcher.MipRayMarcher2",
        "training.volumetric_rendering.ray_sampler.RaySampler",
        "training.volumetric_rendering.renderer.ImportanceRenderer",
    }
)
DICTS = frozenset({"collections.OrderedDict", "dnnlib.EasyDict", "dnnlib.util.EasyDict"})
SETS = frozenset({"__builtin__.set", "builtins.set"})
DTYPE = "numpy.dtype"
SCALARS = frozenset(
    {
        "numpy._core.multiarray.scalar",
        "numpy.core.multiarray.scalar",
        "numpy.multiarray.scalar",
    }
)
ALLOWED = GLOBALS | MODULES | DICTS | SETS | SCALARS | {PERSISTENT, DTYPE}

NAME = re.compile(r"\w{1,100}", re.ASCII)
NUMBER = re.compile(r"f[248]|[iu][1248]|b1")  # numpy's dtype codes
NOT_PICKLES = (  # first bytes, what the file is
    (b"PK\x03\x04", "a zip archive (a newer torch.save?), not an official .pkl"),
    (b"version https://git-lfs", "a git-lfs pointer, not the file itself; run 'git lfs pull'"),
    (b"<", "a web page saved under this name; download the file itself"),
)


def read_official(path: str | Path) -> Checkpoint:
    """The generator `G_ema` of an official checkpoint; nothing in the file is executed.

    A pickle of the bare generator is read too. Tensors are bit-exact, and copies: the file may
    change or go afterwards. Raises RendererError, naming the file and the place, for anything that
    is not a whole checkpoint of these families.
    """
    source = str(path)
    data = _map(Path(path))
    # a tensor is copied up to three times: decoded (protocol 2), aligned, cloned
    budget = Budget(steps=MAX_STEPS, bytes=3 * len(data))
    content, end = load(data, source, allowed=ALLOWED, budget=budget)
    if end != len(data):
        raise RendererError(
            f"{source}: {len(data) - end} bytes behind the checkpoint's end; download it again"
        )
    network = _find_generator(content, source, budget)
    state = dict(_tensors(network, "", source, budget))
    family = find_family(state, source)
    check_finite(state, source)

    attributes = _attributes(network, f"{source}: G_ema", budget)
    settings = {
        name: _plain(attributes.get(name), f"{source}: {name}", budget)
        for name in (
            "_init_args",
            "_init_kwargs",
            "rendering_kwargs",
            "neural_rendering_resolution",
        )
    }
    check_json(settings, source)
    if settings["_init_args"]:
        raise RendererError(f"{source}: _init_args: not empty, so its arguments have no names")
    init_kwargs = settings["_init_kwargs"]
    if not isinstance(init_kwargs, dict):
        raise RendererError(f"{source}: _init_kwargs: missing, or not a dict")
    # the attribute is what the network used last, the argument what it was made with
    rendering_kwargs = settings["rendering_kwargs"] or init_kwargs.get("rendering_kwargs")
    if not isinstance(rendering_kwargs, dict):
        raise RendererError(f"{source}: rendering_kwargs: missing, or not a dict")
    resolution = settings["neural_rendering_resolution"]
    if type(resolution) is not int or resolution < 1:
        raise RendererError(f"{source}: neural_rendering_resolution: missing, or not a number")
    return Checkpoint(
        family=family,
        init_kwargs={k: v for k, v in init_kwargs.items() if k != "rendering_kwargs"},
        rendering_kwargs=rendering_kwargs,
        neural_rendering_resolution=resolution,
        plane_axes=_plane_axes(attributes, source, budget),
        state=state,
    )


def _map(path: Path) -> memoryview:
    """The file's bytes; refused where the first of them say that it is something else."""
    try:
        if not path.is_file():
            what = "not a file" if path.exists() else "no such file"
            raise RendererError(f"{path}: {what}")
        with path.open("rb") as file:
            if not os.fstat(file.fileno()).st_size:
                raise RendererError(f"{path}: empty; download it again")
            # a private copy that nobody writes to: torch warns of memory that is read-only
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
    except OSError as error:
        raise RendererError(f"{path}: cannot read ({error.strerror or error})") from None
    head = bytes(data[:64]).removeprefix(b"\xef\xbb\xbf").lstrip()
    for start, what in NOT_PICKLES:
        if head.startswith(start):
            raise RendererError(f"{path}: {what}")
    if data[8:10] == b'{"':
        raise RendererError(f"{path}: a safetensors file, not a .pkl")
    return data


def _find_generator(content: Any, source: str, budget: Budget) -> Call:
    if isinstance(content, Call) and (content.name == PERSISTENT or content.name in MODULES):
        return content
    networks = _entries(content, f"{source}: its content", budget)
    if "G_ema" not in networks:
        names = ", ".join([*networks][:8]) or "nothing"
        raise RendererError(f"{source}: no generator G_ema in it, only {names}")
    return networks["G_ema"]


def _entries(value: Any, where: str, budget: Budget) -> dict[str, Any]:
    """The items of a dict, OrderedDict or EasyDict whose keys are names."""
    if isinstance(value, Call) and value.name in DICTS and not value.args:
        value = dict(value.items)
    if not isinstance(value, dict):
        raise RendererError(f"{where}: not a dict")
    budget.spend(where, steps=1 + len(value))
    if not all(isinstance(key, str) and NAME.fullmatch(key) for key in value):
        raise RendererError(f"{where}: a dict whose keys are not all names")
    return value


def _attributes(module: Any, where: str, budget: Budget) -> dict[str, Any]:
    """What was the __dict__ of a torch module."""
    if isinstance(module, Call) and module.name == PERSISTENT and len(module.args) == 1:
        meta = _entries(module.args[0], where, budget)
        if meta.get("type") == "class":
            return _entries(meta.get("state"), f"{where}: state", budget)
    elif isinstance(module, Call) and module.name in MODULES:
        return _entries(module.state, f"{where}: state", budget)
    raise RendererError(f"{where}: not a torch module")


def _tensors(
    module: Any, prefix: str, source: str, budget: Budget, depth: int = 0
) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors in the order of upstream's state_dict()."""
    where = f"{source}: {prefix or 'G_ema'}"
    if depth > MAX_DEPTH:
        raise RendererError(f"{where}: modules nested more than {MAX_DEPTH} deep")
    attributes = _attributes(module, where, budget)
    left_out = _names(attributes.get("_non_persistent_buffers_set", set()), where, budget)
    for kind in ("_parameters", "_buffers"):
        for name, value in _entries(attributes.get(kind), f"{where}: {kind}", budget).items():
            if value is not None and not (kind == "_buffers" and name in left_out):
                yield prefix + name, read_tensor(value, f"{source}: {prefix}{name}", budget)
    for name, child in _entries(attributes.get("_modules"), f"{where}: _modules", budget).items():
        if child is not None:
            yield from _tensors(child, f"{prefix}{name}.", source, budget, depth + 1)


def _names(value: Any, where: str, budget: Budget) -> set[Any]:
    """A set, as protocols 4 and 5 hold it, or as the call of the earlier ones."""
    match value:
        case set():
            return value
        case Call(name=name, args=(list(items),)) if name in SETS:
            budget.spend(where, steps=len(items))
            return {item for item in items if isinstance(item, str)}
    raise RendererError(f"{where}: _non_persistent_buffers_set is not a set")


def _plain(value: Any, where: str, budget: Budget, depth: int = 0) -> Any:
    """`value` without stubs: lists for tuples, dicts for EasyDicts, numbers for numpy's."""
    budget.spend(where, steps=1)
    if depth > MAX_DEPTH:
        raise RendererError(f"{where}: nested more than {MAX_DEPTH} deep")
    match value:
        case None | bool() | int() | float() | str():
            return value
        case list() | tuple():
            return [
                _plain(item, f"{where}[{index}]", budget, depth + 1)
                for index, item in enumerate(value)
            ]
        case Call(name=name) if name in SCALARS:
            return _number(value, where, budget)
        case dict() | Call() if isinstance(value, dict) or value.name in DICTS:
            return {
                key: _plain(item, f"{where}.{key}", budget, depth + 1)
                for key, item in _entries(value, where, budget).items()
            }
    raise RendererError(f"{where}: neither a number, text, a list nor a dict")


def _number(scalar: Call, where: str, budget: Budget) -> Any:
    """scalar(dtype(code, ...) with state (version, byte order, ...), bytes) -> a Python number."""
    match scalar.args:
        case (Call(name=name, args=(str(code), *_), state=(_, "<" | "|", *_)), raw):
            if name == DTYPE and NUMBER.fullmatch(code):
                data, dtype = as_bytes(raw, where, budget), np.dtype(f"<{code}")
                if len(data) == dtype.itemsize:
                    return np.frombuffer(data, dtype)[0].item()
    raise RendererError(f"{where}: not a number of numpy's")


def _plane_axes(attributes: dict[str, Any], source: str, budget: Budget) -> list | None:
    where = f"{source}: renderer.plane_axes"
    modules = _entries(attributes["_modules"], where, budget)
    renderer = modules.get("renderer", attributes.get("renderer"))
    if renderer is None:
        return None
    stored = _attributes(renderer, where, budget).get("plane_axes")
    if stored is None:
        return None
    axes = read_tensor(stored, where, budget)
    if axes.shape != (3, 3, 3) or not axes.is_floating_point():
        raise RendererError(f"{where}: {axes.dtype} {tuple(axes.shape)}, expected floats [3, 3, 3]")
    check_finite({"renderer.plane_axes": axes}, source)
    return axes.tolist()
