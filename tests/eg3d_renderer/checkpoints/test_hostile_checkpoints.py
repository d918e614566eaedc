"""Official checkpoints with bad intentions, and damaged ones: nothing runs, nothing else breaks."""

import builtins
import functools
import os
import pickle
import pickletools
import random
import resource
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from eg3d_renderer import RendererError
from eg3d_renderer.checkpoints import Checkpoint, digest, read_official
from eg3d_renderer.checkpoints.storages import MAGIC
from tests.eg3d_renderer.checkpoints.official_writer import Calls, upstream, write_official


def stored(*parts: object) -> Calls:
    """A tensor whose storage is made of these pickles."""
    data = b"".join(pickle.dumps(part, 2, fix_imports=False) for part in parts)
    storage = Calls(torch.storage._load_from_bytes, data)
    return Calls(torch._utils._rebuild_tensor_v2, storage, 0, (1,), (1,), False, OrderedDict())


ATTACKS: dict[str, Callable[[str], Any]] = {
    f"{os.system.__module__}.system": lambda mark: Calls(os.system, f"touch {mark}"),
    "builtins.eval": lambda mark: Calls(eval, f"open({mark!r}, 'w')"),
    "builtins.exec": lambda mark: Calls(exec, f"open({mark!r}, 'w')"),
    "builtins.getattr": lambda mark: Calls(getattr, "abc", "upper"),
    "builtins.__import__": lambda mark: Calls(builtins.__import__, "antigravity"),
    f"{open.__module__}.open": lambda mark: Calls(open, mark, "w"),
    "subprocess.Popen": lambda mark: Calls(subprocess.Popen, ["touch", mark]),
    "torch.serialization.load": lambda mark: Calls(torch.load, mark),
    "torch.hub.load": lambda mark: Calls(torch.hub.load, mark, "model"),
    "functools.partial": lambda mark: functools.partial(open, mark, "w"),
    f"{pickle.loads.__module__}.loads": lambda mark: Calls(
        pickle.loads, pickle.dumps(Calls(open, mark, "w"))
    ),
}
PLACES: dict[str, Callable[[Any], dict[str, Any]]] = {
    "beside the networks": lambda attack: {"extra": attack},
    "instead of a network": lambda attack: {"D": attack},
    "an attribute": lambda attack: {"edit": lambda g: setattr(g, "note", [attack])},
    "a buffer": lambda attack: {"edit": lambda g: g.backbone._buffers.update(b=attack)},
    "a storage": lambda attack: {"edit": lambda g: g.backbone._buffers.update(b=stored(attack))},
    "a storage's fourth part": lambda attack: {
        "edit": lambda g: g.backbone._buffers.update(b=stored(MAGIC, 1001, {}, attack))
    },
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", ATTACKS)
def test_nothing_in_a_file_runs(tmp_path: Path, name: str, place: str) -> None:
    path, mark = tmp_path / "x.pkl", tmp_path / "mark"
    write_official(path, **PLACES[place](ATTACKS[name](str(mark))))
    modules = set(sys.modules)
    with pytest.raises(RendererError, match=f"asks for {name}, which was refused") as caught:
        read_official(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert set(sys.modules) == modules
    assert os.listdir(tmp_path) == ["x.pkl"]


def test_module_src_is_not_run(tmp_path: Path) -> None:
    source = f"open({str(tmp_path / 'mark')!r}, 'w')\nimport antigravity"
    write_official(tmp_path / "x.pkl", module_src=source)
    modules = set(sys.modules)
    read_official(tmp_path / "x.pkl")
    assert set(sys.modules) == modules
    assert os.listdir(tmp_path) == ["x.pkl"]


def test_the_real_reconstruction_is_never_called(tmp_path: Path) -> None:
    write_official(tmp_path / "x.pkl")
    with upstream():  # even when upstream's modules are there, and would raise
        read_official(tmp_path / "x.pkl")


@pytest.fixture(scope="module")
def small() -> bytes:
    """A whole checkpoint of few opcodes."""
    with upstream() as names:
        weight = nn.Parameter(torch.arange(6.0).view(2, 3).t())
        block = names.persistent(const=weight, steps=torch.tensor(7))
        net = nn.Sequential(nn.Softplus())
        generator = names.persistent(
            backbone=names.persistent(synthesis=names.persistent(b4=block)), decoder=net
        )
        generator._init_kwargs = names.easydict(z_dim=512)
        generator.rendering_kwargs = names.easydict(box_warp=1.0)
        generator.neural_rendering_resolution = 64
        return pickle.dumps({"G_ema": generator}, 4)


def read_or_refuse(path: Path, data: bytes) -> Checkpoint | None:
    """What either outcome must keep: an error of one line that names the file, or a checkpoint."""
    path.write_bytes(data)
    refusal = ""
    try:
        checkpoint = read_official(path)
    except RendererError as error:
        refusal = str(error)
    if refusal:
        assert refusal.startswith(f"{path}: ")
        assert refusal.isprintable()
        return None
    assert len(digest(checkpoint)) == 64
    assert sum(tensor.nbytes for tensor in checkpoint.state.values()) <= 3 * len(data)
    return checkpoint


def test_every_truncation_is_noticed(tmp_path: Path, small: bytes) -> None:
    path = tmp_path / "x.pkl"
    assert read_or_refuse(path, small)
    starts = [place or 0 for _, _, place in pickletools.genops(small)]
    for end in sorted({start + d for start in starts for d in (-1, 0, 1)} & {*range(len(small))}):
        assert not read_or_refuse(path, small[:end]), end


def test_bytes_behind_the_end_are_noticed(tmp_path: Path, small: bytes) -> None:
    for tail in (b"\0", b"\n", b".", small):
        assert not read_or_refuse(tmp_path / "x.pkl", small + tail)


@pytest.mark.parametrize("seed", range(4))
def test_flipped_bits_do_no_harm(tmp_path: Path, small: bytes, seed: int) -> None:
    rng = random.Random(seed)
    read = 0
    for _ in range(400):
        data = bytearray(small)
        for _ in range(rng.choice([1, 1, 1, 4])):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        if read_or_refuse(tmp_path / "x.pkl", bytes(data)):
            read += 1
    assert 0 < read < 400  # a flip in a weight or in a name nobody reads is not an error


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    begin=st.integers(0, 2**16),
    length=st.integers(0, 12),
    patch=st.sampled_from([b"\xff" * 8, b"\0" * 8, b"\x7f\xff\xff\xff", b"(", b"0", b"h\x01"])
    | st.binary(max_size=12),
)
def test_patches_do_no_harm(
    tmp_path: Path, small: bytes, begin: int, length: int, patch: bytes
) -> None:
    begin %= len(small)
    read_or_refuse(tmp_path / "x.pkl", small[:begin] + patch + small[begin + length :])


def test_what_a_file_claims_takes_no_memory(tmp_path: Path) -> None:
    expanded = torch.zeros(1).expand(2**40)  # one element in the file
    path = tmp_path / "x.pkl"
    write_official(path, edit=lambda g: g.backbone._buffers.update(b=expanded))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(RendererError, match=r"backbone\.b: 1099511627776 elements from 0 to 1 of"):
        read_official(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


def test_one_storage_cannot_fill_many_tensors(tmp_path: Path) -> None:
    storage = torch.zeros(100_000)._typed_storage()  # pickled once, then referred to
    copies = {
        f"b{i}": Calls(torch._utils._rebuild_tensor_v2, storage, 0, (100_000,), (1,), False, None)
        for i in range(1000)
    }
    path = tmp_path / "x.pkl"
    write_official(path, edit=lambda g: g.backbone._buffers.update(copies))
    assert path.stat().st_size < 1e6
    with pytest.raises(RendererError, match="its tensors claim more bytes than the file has"):
        read_official(path)
