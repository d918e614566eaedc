import os
import pickle
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from eg3d_renderer import RendererError
from eg3d_renderer.checkpoints import read_official
from tests.eg3d_renderer.checkpoints.official_writer import (
    INIT_KWARGS,
    PLANE_AXES,
    RENDERING_KWARGS,
    Calls,
    make_generator,
    upstream,
    write_official,
)


def assert_same_state(state: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert list(state) == list(expected)
    for name, tensor in state.items():
        assert tensor.dtype == expected[name].dtype, name
        assert torch.equal(tensor, expected[name]), name
        assert tensor.is_contiguous(), name
    assert (
        len({t.data_ptr() for t in state.values() if t.numel()}) == len(state) - 1
    )  # one is empty


@pytest.mark.parametrize("family", ["eg3d", "panohead", "spherehead"])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_checkpoint_is_read_bit_exactly(tmp_path: Path, family: str, protocol: int) -> None:
    expected = write_official(tmp_path / "x.pkl", family, protocol)
    assert not {"dnnlib", "torch_utils", "training"} & sys.modules.keys()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        checkpoint = read_official(tmp_path / "x.pkl")
    assert_same_state(checkpoint.state, expected)
    assert "backbone.synthesis.b4.scratch" not in checkpoint.state
    assert checkpoint.family == family
    assert checkpoint.init_kwargs == {**INIT_KWARGS, "img_resolution": 512.5}
    assert checkpoint.rendering_kwargs == {**RENDERING_KWARGS, "depth_resolution": 48}
    assert checkpoint.neural_rendering_resolution == 64
    assert checkpoint.plane_axes == PLANE_AXES


def test_tensors_outlive_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.pkl"
    expected = write_official(path)
    state = read_official(path).state
    path.write_bytes(b"\xff" * path.stat().st_size)
    assert_same_state(state, expected)


@pytest.mark.parametrize(
    "number",
    [
        np.float64(0.1),
        np.float32(-3),
        np.float16(2.5),
        np.int64(-(2**40)),
        np.uint8(7),
        np.bool_(1),
    ],
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_numbers_of_numpy_become_plain(tmp_path: Path, protocol: int, number: Any) -> None:
    def edit(generator: Any) -> None:
        generator.rendering_kwargs["number"] = [number]

    write_official(tmp_path / "x.pkl", protocol=protocol, edit=edit)
    (read,) = read_official(tmp_path / "x.pkl").rendering_kwargs["number"]
    assert read == number.item()
    assert type(read) is type(number.item())


def test_numpy_before_version_2_named_it_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "x.pkl"
    write_official(path, protocol=2)
    data = path.read_bytes()
    assert b"numpy._core.multiarray\n" in data
    path.write_bytes(data.replace(b"numpy._core.multiarray\n", b"numpy.core.multiarray\n"))
    assert read_official(path).rendering_kwargs["depth_resolution"] == 48


def test_a_bare_generator_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.pkl"
    with upstream() as names:
        generator = make_generator(names)
        path.write_bytes(pickle.dumps(generator, 4))
    assert_same_state(read_official(path).state, generator.state_dict())


def test_rendering_kwargs_may_be_an_argument_only(tmp_path: Path) -> None:
    write_official(
        tmp_path / "x.pkl", edit=lambda generator: delattr(generator, "rendering_kwargs")
    )
    checkpoint = read_official(tmp_path / "x.pkl")
    assert checkpoint.rendering_kwargs["ray_start"] == 0.0
    assert "rendering_kwargs" not in checkpoint.init_kwargs


def test_a_renderer_without_plane_axes(tmp_path: Path) -> None:
    write_official(tmp_path / "x.pkl", edit=lambda generator: delattr(generator, "renderer"))
    assert read_official(tmp_path / "x.pkl").plane_axes is None
    write_official(tmp_path / "x.pkl", edit=lambda g: delattr(g.renderer, "plane_axes"))
    assert read_official(tmp_path / "x.pkl").plane_axes is None


def set_path(path: str, value: Any) -> Callable[[Any], None]:
    def edit(generator: Any) -> None:
        owner, _, name = path.rpartition(".")
        vars(generator.get_submodule(owner))[name] = value

    return edit


def nest(times: int, wrap: Callable[[Any], Any], value: Any) -> Any:
    for _ in range(times):
        value = wrap(value)
    return value


def twice(value: Any) -> list[Any]:
    return [value, value]


def pair(module: nn.Module) -> nn.Module:
    return nn.Sequential(module, module)


def loop() -> nn.Module:
    module = nn.Sequential()
    module._modules["again"] = module
    return module


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (set_path("_init_args", (512,)), "_init_args: not empty"),
        (set_path("_init_kwargs", None), "_init_kwargs: missing"),
        (set_path("_init_kwargs", {"z_dim": torch.ones(1)}), "_init_kwargs.z_dim: neither"),
        (set_path("_init_kwargs", {"z_dim": {512}}), "_init_kwargs.z_dim: neither"),
        (set_path("_init_kwargs", {"z_dim": b"512"}), "_init_kwargs.z_dim: neither"),
        (set_path("_init_kwargs", {"z_dim": np.float64("nan")}), "z_dim: nan cannot be written"),
        (set_path("_init_kwargs", {"a b": 1}), "_init_kwargs: a dict whose keys"),
        (set_path("_init_kwargs", {1: 1}), "_init_kwargs: a dict whose keys"),
        (set_path("rendering_kwargs", [1]), "rendering_kwargs: missing, or not a dict"),
        (set_path("rendering_kwargs", nest(40, twice, 1)), "more than 32 deep"),
        (set_path("rendering_kwargs", nest(24, twice, 1)), "far more objects"),
        (set_path("neural_rendering_resolution", None), "neural_rendering_resolution: missing"),
        (set_path("neural_rendering_resolution", True), "neural_rendering_resolution: missing"),
        (set_path("neural_rendering_resolution", 0), "neural_rendering_resolution: missing"),
        (set_path("renderer.plane_axes", torch.ones(3, 3)), r"torch.float32 \(3, 3\), expected"),
        (set_path("renderer.plane_axes", torch.ones(3, 3, 3).int()), "torch.int32"),
        (set_path("renderer.plane_axes", torch.full((3, 3, 3), torch.inf)), "holds infinities"),
        (set_path("renderer.plane_axes", PLANE_AXES), "not a tensor"),
        (set_path("backbone._modules", {"synthesis": 1}), "backbone.synthesis.: not a torch"),
        (set_path("backbone._modules", {"synthesis": loop()}), "nested more than 32 deep"),
        (set_path("backbone._modules", {"s": nest(20, pair, nn.Softplus())}), "far more objects"),
        (set_path("backbone._modules", {"syn\nthesis": None}), "_modules: a dict whose keys"),
        (set_path("backbone._modules", {"a.b": None}), "_modules: a dict whose keys"),
        (set_path("backbone._modules", None), "_modules: not a dict"),
        (set_path("backbone._parameters", {"weight": 1.0}), "backbone.weight: not a tensor"),
        (set_path("backbone._buffers", {"b": torch.tensor(torch.nan)}), "backbone.b holds inf"),
        (set_path("backbone._non_persistent_buffers_set", 1), "is not a set"),
        (set_path("backbone._modules", {}), "not a generator of EG3D, PanoHead or SphereHead"),
    ],
)
def test_read_official_refuses(tmp_path: Path, edit: Callable[[Any], None], said: str) -> None:
    path = tmp_path / "x.pkl"
    write_official(path, edit=edit)
    with pytest.raises(RendererError, match=said) as caught:
        read_official(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "G_ema: not a torch module"),
        ({}, "G_ema: not a torch module"),
        (nn.Softplus(), "not a generator of EG3D, PanoHead or SphereHead"),
    ],
)
def test_the_generator_must_be_one(tmp_path: Path, value: Any, said: str) -> None:
    write_official(tmp_path / "x.pkl", G_ema=value)
    with pytest.raises(RendererError, match=said):
        read_official(tmp_path / "x.pkl")


def test_a_checkpoint_without_its_generator_lists_what_it_has(tmp_path: Path) -> None:
    path = tmp_path / "x.pkl"
    write_official(path)
    path.write_bytes(path.read_bytes().replace(b"\x05G_ema", b"\x05G_xyz"))
    with pytest.raises(
        RendererError, match="no generator G_ema in it, only training_set_kwargs, G"
    ):
        read_official(path)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "empty"),
        (b"PK\x03\x04 and so on", "a zip archive"),
        (b"\n<!DOCTYPE html><html>", "a web page"),
        (b"\xef\xbb\xbf<?xml version='1.0'?>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        (b"\x40" + b"\0" * 7 + b'{"__metadata__":{}}', "a safetensors file"),
        (b"GIF89a", "byte 0: no pickle of protocol 2 to 5 starts here"),
        (b"\x80\x04N.", "its content: not a dict"),
        (b"\x80\x04}.", "no generator G_ema in it, only nothing"),
        (b"\x80\x04}.}", "1 bytes behind the checkpoint's end"),
    ],
)
def test_other_files_are_named(tmp_path: Path, data: bytes, said: str) -> None:
    path = tmp_path / "x.pkl"
    path.write_bytes(data)
    with pytest.raises(RendererError, match=said) as caught:
        read_official(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_what_is_not_a_file_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, said in (
        (tmp_path / "none.pkl", "none.pkl: no such file"),
        (tmp_path, ": not a file"),
        (tmp_path / "pipe", "pipe: not a file"),
        (tmp_path / ("x" * 300), "cannot read"),
    ):
        with pytest.raises(RendererError, match=said):
            read_official(path)


def test_a_stranger_s_class_is_refused_by_name(tmp_path: Path) -> None:
    write_official(tmp_path / "x.pkl", stats=Calls(torch.nn.functional.relu, 1))
    with pytest.raises(RendererError, match=r"asks for torch\.nn\.functional\.relu, which was"):
        read_official(tmp_path / "x.pkl")
