import pickle
import struct
import warnings
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eg3d_renderer import RendererError
from eg3d_renderer.checkpoints.pickles import MAX_STEPS, Budget, load
from eg3d_renderer.checkpoints.storages import DTYPES, GLOBALS, MAGIC, read_storage, read_tensor
from tests.eg3d_renderer.checkpoints.official_writer import Calls

SYSTEM = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2}}
SIX = struct.pack("<6f", *range(6))


def read(data: bytes, spare: int = 0) -> torch.Tensor:
    buffer = memoryview(bytearray(b"\0" * spare + data))
    budget = Budget(steps=MAX_STEPS, bytes=3 * len(data))
    value, _ = load(buffer, "x.pkl", allowed=GLOBALS, budget=budget, position=spare)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tensor = read_tensor(value, "x.pkl: weight", budget)
    buffer[:] = b"\xff" * len(buffer)  # what was read must not depend on the file any more
    return tensor


def legacy(
    count: Any = 6,
    raw: bytes = SIX,
    *,
    magic: Any = MAGIC,
    protocol: Any = 1001,
    system: Any = SYSTEM,
    kind: bytes = b"ctorch\nFloatStorage\n",
    key: str = "94",
    keys: Any = None,
    location: str = "cuda:0",
    view: bytes = b"N",
    written: int | None = None,
) -> bytes:
    """The bytes of a storage, as any torch before 1.6 or today wrote them, or damaged."""
    parts = [pickle.dumps(part, 2) for part in (magic, protocol, system)]
    fields = [pickle.dumps(field, 2)[2:-1] for field in (key, location, count)]
    parts += [b"\x80\x02(X\x07\0\0\0storage" + kind + b"".join(fields) + view + b"tQ."]
    parts += [pickle.dumps([key] if keys is None else keys, 2)]
    return b"".join(parts) + struct.pack("<q", count if written is None else written) + raw


def tensor_of(
    storage: bytes, offset: Any = 0, size: Any = (6,), stride: Any = (1,), *more: Any
) -> bytes:
    stored = Calls(torch.storage._load_from_bytes, storage)
    rebuild = torch._utils._rebuild_tensor_v2
    return pickle.dumps(Calls(rebuild, stored, offset, size, stride, False, None, *more), 4)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
def test_every_dtype_is_read_bit_exactly(dtype: torch.dtype, protocol: int) -> None:
    rng = torch.Generator().manual_seed(1)
    bits = torch.randint(0, 2 if dtype is torch.bool else 256, (15, 8), generator=rng)
    tensor = bits.to(torch.uint8).view(dtype)
    again = read(pickle.dumps(tensor, protocol))
    assert again.dtype == dtype
    assert again.shape == tensor.shape
    assert torch.equal(again.view(torch.uint8), tensor.view(torch.uint8))


@settings(max_examples=60)
@given(
    shape=st.lists(st.integers(0, 4), max_size=4),
    order=st.randoms(use_true_random=False),
    step=st.integers(1, 3),
    skip=st.integers(0, 2),
    spare=st.integers(0, 8),
    protocol=st.integers(2, 5),
)
def test_views_come_back_contiguous(
    shape: list[int], order: Any, step: int, skip: int, spare: int, protocol: int
) -> None:
    base = torch.arange(skip + step * torch.Size(shape).numel(), dtype=torch.int32)
    tensor = base[skip::step].view(shape).permute(order.sample(range(len(shape)), len(shape)))
    again = read(pickle.dumps(tensor, protocol), spare)
    assert torch.equal(again, tensor)
    assert again.is_contiguous()


@pytest.mark.parametrize("slot", [False, True])
def test_parameters_are_read(slot: bool) -> None:
    parameter = torch.nn.Parameter(torch.arange(3.0))
    if slot:
        parameter.note = "kept by _rebuild_parameter_with_state"  # type: ignore[attr-defined]
    again = read(pickle.dumps(parameter, 4))
    assert torch.equal(again, parameter.data)
    assert not again.requires_grad


def test_storages_of_older_torch_are_read() -> None:
    expected = torch.arange(6.0).view(2, 3)
    for storage in (legacy(), legacy(view=b"")):
        assert torch.equal(read(tensor_of(storage, 0, (2, 3), (3, 1))), expected)


@pytest.mark.parametrize(
    ("storage", "said"),
    [
        (b"", "byte 0: 1 bytes announced, 0 left"),
        (b"PK\x03\x04", "byte 0: no pickle"),
        (legacy()[:-1], "6 elements of 4 bytes announced, 23 bytes left"),
        (legacy() + b"\0", "6 elements of 4 bytes announced, 25 bytes left"),
        (legacy(raw=b"")[:-3], "the number of its elements"),
        (legacy(written=2**62), "the number of its elements"),
        (legacy(2**62), "4611686018427387904 elements of 4 bytes announced, 24 bytes left"),
        (legacy(-6), "-6 elements"),
        (legacy(True), "its persistent id"),
        (legacy(magic=MAGIC + 1), "not in torch's format"),
        (legacy(magic=None), "not in torch's format"),
        (legacy(protocol=1002), "not in torch's format"),
        (legacy(system=[]), "not in torch's format"),
        (legacy(system={"little_endian": False}), "big-endian"),
        (legacy(keys=["95"]), "the list of its keys"),
        (legacy(keys=["94", "95"]), "the list of its keys"),
        (legacy(view=b"(X\x01\0\0\0aK\0K\1t"), "its persistent id"),
        (legacy(view=b"NN"), "its persistent id"),
        (legacy(kind=b"X\x0c\0\0\0FloatStorage"), "its persistent id"),
        (legacy(kind=b"ctorch\nComplexFloatStorage\n"), "asks for torch.ComplexFloatStorage"),
        (legacy(kind=b"ctorch\nload\n"), "asks for torch.load"),
        (legacy(6, b"\0\1\2\0\0\0", kind=b"ctorch\nBoolStorage\n"), "neither 0 nor 1"),
    ],
)
def test_storages_are_refused(storage: bytes, said: str) -> None:
    with pytest.raises(RendererError, match=rf"^x\.pkl: weight.*{said}"):
        read(tensor_of(storage))


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ((1, (6,), (1,)), "6 elements from 1 to 7 of a storage of 6"),
        ((0, (3,), (3,)), "3 elements from 0 to 7"),
        ((6, (), ()), "1 elements from 6 to 7"),
        ((0, (2**62,), (0,)), "4611686018427387904 elements from 0 to 1"),
        ((0, (7,), (0,)), "7 elements from 0 to 1"),
        ((0, (2**62, 4), (0, 0)), "18446744073709551616 elements"),
        ((0, (2,), (2**62,)), "2 elements from 0 to 4611686018427387905"),
        ((0, (0, 2**40), (1, 1)), "impossible size"),
        ((0, (0,) * 9, (1,) * 9), "its offset, size and stride"),
        ((0, (2**64,), (0,)), "its offset, size and stride"),
        ((-1, (2,), (1,)), "its offset, size and stride"),
        ((5, (2,), (-1,)), "its offset, size and stride"),
        ((0, (-1,), (1,)), "its offset, size and stride"),
        ((0, (True,), (1,)), "its offset, size and stride"),
        ((0, (1.0,), (1,)), "its offset, size and stride"),
        ((0, [6], [1]), "its offset, size and stride"),
        ((0, (6,), ()), "its offset, size and stride"),
        ((None, (6,), (1,)), "its offset, size and stride"),
        ((0, (6,), (1,), {"conj": True}), "conjugated or negated"),
        ((0, (6,), (1,), {}, {}), "not a tensor"),
    ],
)
def test_tensors_stay_inside_their_storage(recipe: tuple, said: str) -> None:
    with pytest.raises(RendererError, match=rf"^x\.pkl: weight: .*{said}"):
        read(tensor_of(legacy(), *recipe))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "not a tensor"),
        ([1.0, 2.0], "not a tensor"),
        (Calls(torch._utils._rebuild_parameter), "not a tensor"),
        (Calls(torch._utils._rebuild_tensor_v2, b"", 0, (6,), (1,), False, None), "of a storage"),
        (
            Calls(
                torch._utils._rebuild_tensor_v2,
                Calls(torch.storage._load_from_bytes, "text"),
                *(0, (6,), (1,), False, None),
            ),
            "not bytes",
        ),
    ],
)
def test_other_values_are_no_tensors(value: object, said: str) -> None:
    with pytest.raises(RendererError, match=said):
        read(pickle.dumps(value, 4))


def test_reading_one_storage_again_and_again_is_refused() -> None:
    data = memoryview(bytearray(tensor_of(legacy(1000, b"\0" * 4000), 0, (1000,), (1,))))
    budget = Budget(steps=MAX_STEPS, bytes=3 * len(data))
    value, _ = load(data, "x.pkl", allowed=GLOBALS, budget=budget)
    read_tensor(value, "x.pkl: weight", budget)
    budget.bytes = 4000
    with pytest.raises(RendererError, match="its tensors claim more bytes than the file has"):
        read_tensor(value, "x.pkl: weight", budget)


def test_storages_are_views_of_the_file_where_they_are_aligned() -> None:
    storage = legacy()
    for spare in range(8):
        data = memoryview(bytearray(b"\0" * spare + tensor_of(storage)))
        budget = Budget(steps=MAX_STEPS, bytes=3 * len(data))
        value, _ = load(data, "x.pkl", allowed=GLOBALS, budget=budget, position=spare)
        elements = read_storage(value.args[0], "x.pkl: weight", budget)
        assert elements.data_ptr() % 4 == 0
        assert elements.tolist() == [0, 1, 2, 3, 4, 5]
