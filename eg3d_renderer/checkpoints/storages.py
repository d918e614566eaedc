"""Tensors as `pickle.dumps(tensor)` writes them, out of the recipe a pickle machine returns.

    _rebuild_parameter(                                           or a bare tensor
        _rebuild_tensor_v2(
            _load_from_bytes(storage), offset, size, stride, requires_grad, hooks),
        requires_grad, hooks)

A storage is a small file of its own, in the format torch.save had before 1.6: five pickles (a magic
number, 1001, facts about the machine, the storage as a persistent id, the list of its key), then
the number of elements as int64, then the elements, little endian.
"""

import math
import struct
from typing import Any

import torch
from torch import Tensor

from eg3d_renderer.checkpoints.pickles import Budget, Call, Global, Persistent, load
from eg3d_renderer.errors import RendererError

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
DTYPES = {
    "torch.DoubleStorage": torch.float64,
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
}
MAX_DIMENSIONS = 8

ENCODE = "_codecs.encode"
LOAD_STORAGE = "torch.storage._load_from_bytes"
REBUILD_TENSOR = "torch._utils._rebuild_tensor_v2"
REBUILD_PARAMETER = frozenset(
    {"torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"}
)
GLOBALS = REBUILD_PARAMETER | {REBUILD_TENSOR, LOAD_STORAGE, ENCODE, "collections.OrderedDict"}


def read_tensor(value: object, source: str, budget: Budget) -> Tensor:
    """The tensor or parameter that the call `value` describes: contiguous, with its own memory.

    `source` names the tensor in errors. Spends the bytes it copies from `budget`. Raises
    RendererError where the recipe is damaged, or the tensor would reach outside its storage or
    repeat elements of it (an expanded tensor could take any amount of memory).
    """
    if isinstance(value, Call) and value.name in REBUILD_PARAMETER and value.args:
        value = value.args[0]
    if not isinstance(value, Call) or value.name != REBUILD_TENSOR or len(value.args) not in (6, 7):
        raise RendererError(f"{source}: not a tensor")
    stored, offset, size, stride, _, _, *metadata = value.args
    if any(metadata):
        raise RendererError(f"{source}: a conjugated or negated tensor, not supported")
    storage = read_storage(stored, source, budget)
    if not all(map(_are_counts, ((offset,), size, stride))) or len(size) != len(stride):
        raise RendererError(f"{source}: its offset, size and stride are not those of a tensor")
    elements = math.prod(size)
    reach = 1 + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if elements == 0:
        if math.prod(n or 1 for n in size) > 2**31:
            raise RendererError(f"{source}: an empty tensor with an impossible size")
        return torch.empty(size, dtype=storage.dtype)
    if elements > storage.numel() or offset + reach > storage.numel():
        raise RendererError(
            f"{source}: {elements} elements from {offset} to {offset + reach} of a storage of "
            f"{storage.numel()}"
        )
    budget.spend(source, nbytes=elements * storage.itemsize)
    whole = storage.view(torch.uint8) if storage.dtype is torch.bool else storage
    tensor = whole.as_strided(size, stride, offset).clone(memory_format=torch.contiguous_format)
    if storage.dtype is torch.bool and tensor.max() > 1:
        raise RendererError(f"{source}: booleans that are neither 0 nor 1")
    return tensor.view(storage.dtype)


def _are_counts(values: Any) -> bool:
    return (
        isinstance(values, tuple)
        and len(values) <= MAX_DIMENSIONS
        and all(type(n) is int and 0 <= n < 2**63 for n in values)
    )


def read_storage(value: object, source: str, budget: Budget) -> Tensor:
    """All elements [n] of the storage that the call `value` describes.

    Where alignment allows they still lie in the file: copy them before they are returned to a user.
    Raises RendererError for anything but exactly one whole, little-endian storage.
    """
    if not isinstance(value, Call) or value.name != LOAD_STORAGE or len(value.args) != 1:
        raise RendererError(f"{source}: not the bytes of a storage")
    data = as_bytes(value.args[0], source, budget)
    source = f"{source} (its storage)"
    head: list[Any] = []
    position = 0
    for _ in range(5):
        part, position = load(
            data,
            source,
            allowed=DTYPES,
            budget=budget,
            position=position,
            persistent_ids=True,
        )
        head.append(part)
    budget.spend(source, nbytes=position)
    magic, protocol, machine, storage, keys = head
    if magic != MAGIC or protocol != PROTOCOL or not isinstance(machine, dict):
        raise RendererError(f"{source}: not in torch's format {PROTOCOL}")
    if machine.get("little_endian") is not True:
        raise RendererError(f"{source}: written by a big-endian machine, not supported")
    dtype, key, count = _parse_id(storage, source)
    if not isinstance(keys, list) or keys != [key]:
        raise RendererError(f"{source}: the list of its keys does not match")
    if len(data) - position < 8 or struct.unpack_from("<q", data, position)[0] != count:
        raise RendererError(f"{source}: the number of its elements does not match")
    raw = data[position + 8 :]
    if len(raw) != count * dtype.itemsize:
        raise RendererError(
            f"{source}: {count} elements of {dtype.itemsize} bytes announced, {len(raw)} bytes left"
        )
    if not raw:
        return torch.empty(0, dtype=dtype)
    elements = torch.frombuffer(raw, dtype=torch.uint8)
    if elements.data_ptr() % dtype.itemsize:
        budget.spend(source, nbytes=len(raw))
        elements = elements.clone()
    return elements.view(dtype)


def _parse_id(storage: object, source: str) -> tuple[torch.dtype, str, int]:
    """("storage", class, key, location, count[, None]) -> dtype, key, count."""
    match storage:
        case Persistent(id=("storage", Global(name=name), str(key), str(), int(count), *view)):
            if type(count) is int and not any(v is not None for v in view) and len(view) <= 1:
                return DTYPES[name], key, count
    raise RendererError(f"{source}: its persistent id is not that of a storage")


def as_bytes(value: object, source: str, budget: Budget) -> memoryview:
    """Pickled bytes: as they are (protocol 3 on), or text to encode as Latin-1 (protocol 2)."""
    match value:
        case memoryview():
            return value
        case Call(name=name, args=(str(text), "latin1")) if name == ENCODE:
            budget.spend(source, nbytes=len(text))
            try:
                return memoryview(bytearray(text, "latin-1"))
            except UnicodeEncodeError:
                pass
    raise RendererError(f"{source}: not bytes")
