import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from eg3d_renderer import RendererError
from eg3d_renderer.checkpoints import (
    Checkpoint,
    digest,
    read_folder,
    read_official,
    save_checkpoint,
)
from tests.eg3d_renderer.checkpoints.official_writer import write_official


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    write_official(tmp_path / "x.pkl", "panohead")
    return read_official(tmp_path / "x.pkl")


@pytest.fixture
def folder(tmp_path: Path, checkpoint: Checkpoint) -> Path:
    save_checkpoint(checkpoint, tmp_path / "deep" / "folder")
    return tmp_path / "deep" / "folder"


@pytest.mark.parametrize("family", ["eg3d", "panohead", "spherehead"])
def test_a_conversion_changes_nothing(tmp_path: Path, family: str) -> None:
    write_official(tmp_path / "x.pkl", family)
    checkpoint = read_official(tmp_path / "x.pkl")
    save_checkpoint(checkpoint, tmp_path / "folder")
    assert sorted(file.name for file in (tmp_path / "folder").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]
    for path in (tmp_path / "folder", tmp_path / "folder" / "model.safetensors"):
        again = read_folder(path)
        assert again.settings() == checkpoint.settings()
        assert again.state.keys() == checkpoint.state.keys()
        for name, tensor in again.state.items():
            assert tensor.dtype == checkpoint.state[name].dtype
            assert torch.equal(tensor, checkpoint.state[name]), name
        assert digest(again) == digest(checkpoint)


def test_the_digest_sees_every_change(checkpoint: Checkpoint) -> None:
    name, tensor = "backbone.synthesis.b4.const", checkpoint.state["backbone.synthesis.b4.const"]
    moved = tensor.clone()
    moved.view(-1).view(torch.uint8)[-1] ^= 1
    swapped = dict(checkpoint.state)
    swapped[name], swapped["other"] = swapped["dataset_label_std"], swapped[name]
    changes: list[dict[str, Any]] = [
        {"family": "spherehead"},
        {"init_kwargs": {**checkpoint.init_kwargs, "z_dim": 511}},
        {"rendering_kwargs": {}},
        {"neural_rendering_resolution": 128},
        {"plane_axes": None},
        {"state": {**checkpoint.state, name: moved}},
        {"state": {**checkpoint.state, name: tensor.view(torch.int32)}},
        {"state": {**checkpoint.state, name: tensor.flatten()}},
        {"state": swapped},
        {"state": {}},
    ]
    changed = [dataclasses.replace(checkpoint, **change) for change in changes]
    assert len({digest(c) for c in (checkpoint, *changed)}) == 1 + len(changed)


def test_the_digest_does_not_depend_on_order(checkpoint: Checkpoint) -> None:
    kwargs = dict(reversed(checkpoint.init_kwargs.items()))
    state = dict(reversed(checkpoint.state.items()))
    reordered = dataclasses.replace(checkpoint, init_kwargs=kwargs, state=state)
    assert digest(reordered) == digest(checkpoint)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_another_checkpoint_is_not_overwritten(
    tmp_path: Path, checkpoint: Checkpoint, name: str
) -> None:
    (tmp_path / name).write_bytes(b"precious")
    with pytest.raises(RendererError, match=f"{name}: exists; name another folder"):
        save_checkpoint(checkpoint, tmp_path)
    assert (tmp_path / name).read_bytes() == b"precious"
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted([name, "x.pkl"])


def test_a_failed_write_leaves_nothing(
    tmp_path: Path, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill_the_disk(self: Path, *args: Any, **kwargs: Any) -> int:
        self.write_bytes(b"{")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", fill_the_disk)
    with pytest.raises(RendererError, match=r"cannot write .*No space left"):
        save_checkpoint(checkpoint, tmp_path / "folder")
    # config.json is written last: without it the folder is not a checkpoint
    assert [file.name for file in (tmp_path / "folder").iterdir()] == ["model.safetensors"]
    with pytest.raises(RendererError, match=r"config\.json: no such file"):
        read_folder(tmp_path / "folder")


def test_a_folder_that_cannot_be_made(tmp_path: Path, checkpoint: Checkpoint) -> None:
    with pytest.raises(RendererError, match="cannot write"):
        save_checkpoint(checkpoint, tmp_path / "x.pkl")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (math.nan, "init_kwargs.a.b: nan cannot"),
        (math.inf, "init_kwargs.a.b: inf cannot"),
        ((1, 2), "init_kwargs.a.b: a tuple cannot"),
        ([1, {2}], r"init_kwargs.a.b\[1\]: a set cannot"),
        ({1: 2}, "init_kwargs.a.b: a dict cannot"),
        ({"\n": torch.ones(1)}, r"init_kwargs.a.b.'\\n': a Tensor cannot"),
    ],
)
def test_settings_must_be_json(
    tmp_path: Path, checkpoint: Checkpoint, value: object, said: str
) -> None:
    odd = dataclasses.replace(checkpoint, init_kwargs={"a": {"b": value}})
    with pytest.raises(RendererError, match=f"^checkpoint: {said}"):
        save_checkpoint(odd, tmp_path / "folder")
    assert not (tmp_path / "folder").exists()
    with pytest.raises(RendererError, match=f"^checkpoint: {said}"):
        digest(odd)


ABSENT = object()


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("format", ABSENT, "format: this version reads 1 only"),
        ("format", 2, "format: this version reads 1 only"),
        ("family", ABSENT, "family: missing"),
        ("family", "gan", "family: expected one of eg3d, panohead, spherehead"),
        ("family", ["eg3d"], "family: expected one of"),
        ("family", "eg3d", "family is eg3d, but model.safetensors is of panohead"),
        ("init_kwargs", None, "init_kwargs: expected an object"),
        ("init_kwargs", {"a": math.inf}, "init_kwargs.a: inf cannot"),
        ("rendering_kwargs", [], "rendering_kwargs: expected an object"),
        ("neural_rendering_resolution", 64.0, "expected a positive whole number"),
        ("neural_rendering_resolution", True, "expected a positive whole number"),
        ("neural_rendering_resolution", 0, "expected a positive whole number"),
        ("plane_axes", [[1.0]], r"expected null or \[3, 3, 3\]"),
        ("plane_axes", [[["a"] * 3] * 3] * 3, r"expected null or \[3, 3, 3\]"),
        ("plane_axes", [[[math.nan] * 3] * 3] * 3, r"plane_axes\[0\]\[0\]\[0\]: nan"),
        ("wei\nrd", 1, r"'wei\\nrd': not a key of format 1"),
    ],
)
def test_configs_are_checked(folder: Path, key: str, value: object, said: str) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config[key] = value
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not ABSENT}))
    with pytest.raises(RendererError, match=said) as caught:
        read_folder(folder)
    assert str(caught.value).startswith(f"{path}: ")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 200_000, "not JSON"),
        (b"[" + b"9" * 5000 + b"]", "not JSON"),
        (b"[]", "not a JSON object"),
    ],
)
def test_configs_must_be_json(folder: Path, data: bytes, said: str) -> None:
    (folder / "config.json").write_bytes(data)
    with pytest.raises(RendererError, match=rf"config\.json: {said}"):
        read_folder(folder)


def test_damaged_weights_are_named(folder: Path, checkpoint: Checkpoint) -> None:
    path = folder / "model.safetensors"
    data = path.read_bytes()
    for damaged in (b"", data[:7], data[:100], data[:-1], b"\xff" * 16):
        path.write_bytes(damaged)
        with pytest.raises(RendererError, match=r"model\.safetensors: not a readable safetensors"):
            read_folder(folder)
    path.unlink()
    with pytest.raises(RendererError, match=r"model\.safetensors: no such file"):
        read_folder(folder)


def test_weights_are_checked(folder: Path) -> None:
    path = folder / "model.safetensors"
    state = load_file(path)
    for name, value, said in (
        ("dataset_label_std", torch.tensor([torch.nan]), "dataset_label_std holds infinities"),
        ("ConvA.0.weight", torch.ones(1), "family is panohead, but model.safetensors is of sphere"),
    ):
        save_file({**state, name: value}, path)
        with pytest.raises(RendererError, match=said):
            read_folder(folder)
    save_file({"weight": torch.ones(1)}, path)
    with pytest.raises(RendererError, match="not a generator of EG3D, PanoHead or SphereHead"):
        read_folder(folder)


def test_what_is_not_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "none", tmp_path / "file", tmp_path / "none" / "model.safetensors"):
        with pytest.raises(RendererError, match=r"config\.json: (no such file|cannot read)"):
            read_folder(path)
