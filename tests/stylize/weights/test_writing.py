"""safetensors files written tensor by tensor, as safetensors itself reads them."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from stylize.config import StylizerError, demo
from stylize.weights.writing import write_stylizer

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
shapes = st.lists(st.integers(0, 5), max_size=3).map(tuple)


def write(folder: Path, state: dict[str, Tensor], dtype: torch.dtype) -> Path:
    write_stylizer(folder, demo(), state, dtype, lambda name: f"source of {name}")
    return folder / "model.safetensors"


@settings(max_examples=30, deadline=None)
@given(
    st.dictionaries(st.text(min_size=1, max_size=8), shapes, min_size=1, max_size=6),
    st.sampled_from(DTYPES),
    st.sampled_from([torch.float64, *DTYPES]),
)
def test_any_state_comes_back(
    tmp_path_factory: pytest.TempPathFactory,
    sizes: dict[str, tuple[int, ...]],
    dtype: torch.dtype,
    source: torch.dtype,
) -> None:
    sizes.pop("__metadata__", None)
    state = {name: torch.randn(shape).to(source) for name, shape in sizes.items()}
    path = write(tmp_path_factory.mktemp("written") / "model", state, dtype)
    read = load_file(path)
    assert read.keys() == state.keys()
    assert all(torch.equal(read[name], tensor.to(dtype)) for name, tensor in state.items())
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_views_aliases_and_expanded_tensors(tmp_path: Path) -> None:
    base = torch.arange(12.0).view(3, 4)
    state = {"a": base, "b": base, "t": base.T, "e": torch.ones(1).expand(5, 2), "s": base[::2, 1:]}
    read = load_file(write(tmp_path / "model", state, torch.float32))
    assert all(torch.equal(read[name], tensor) for name, tensor in state.items())


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    state = {"a": torch.ones(2), "b": torch.tensor([torch.nan])}
    with pytest.raises(StylizerError, match="source of b: b holds infinities or NaNs"):
        write(tmp_path / "model", state, torch.bfloat16)
    with pytest.raises(StylizerError, match="a holds numbers too large for float16"):
        write(tmp_path / "model", {"a": torch.tensor([1e6])}, torch.float16)
    assert not list(tmp_path.iterdir())
