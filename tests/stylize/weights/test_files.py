"""Files of weights, whole and otherwise: one clear line each, and nothing in them is executed."""

import os
import pickle
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from stylize.config import StylizerError
from stylize.weights.files import read_json, read_tensors

TENSORS = {"a.weight": torch.arange(6.0).view(2, 3), "b": torch.ones(4).half()}


class Escape:
    def __reduce__(self) -> tuple:
        return os.system, ("touch escaped",)


def save(path: Path, content: object = TENSORS, **how: bool) -> Path:
    torch.save(content, path, **how)
    return path


@pytest.mark.parametrize("form", ["safetensors", "zip", "legacy", "wrapped", "parallel", "anyname"])
def test_every_form_reads_the_same(form: str, tmp_path: Path) -> None:
    path = tmp_path / ("model.bin" if form == "anyname" else "model.ckpt")
    if form in ("safetensors", "anyname"):  # told by the content, not the name
        save_file(TENSORS, path)
    elif form == "wrapped":
        save(path, {"epoch": 3, "state_dict": TENSORS})
    elif form == "parallel":
        save(path, {f"module.{name}": tensor for name, tensor in TENSORS.items()})
    else:
        save(path, _use_new_zipfile_serialization=form == "zip")
    read = read_tensors(path)
    assert read.keys() == TENSORS.keys()
    assert all(torch.equal(read[name], tensor) for name, tensor in TENSORS.items())


def test_tensors_are_mapped_not_read(tmp_path: Path) -> None:
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("needs /proc")

    def resident() -> int:
        [line] = [line for line in status.read_text().splitlines() if line.startswith("VmRSS")]
        return int(line.split()[1]) * 1024

    big = {"big": torch.zeros(32, 1 << 20)}  # 128 MiB
    paths = [save(tmp_path / "big.ckpt", big), tmp_path / "big.safetensors"]
    save_file(big, paths[1])
    del big
    for path in paths:
        before = resident()
        read = read_tensors(path)
        assert resident() - before < 32 << 20
        assert not read["big"][-1].any()


def test_a_trainers_leavings_do_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Published v1 checkpoints name callbacks of a library that is not here, and numpy numbers."""
    name = "pytorch_lightning.callbacks.model_checkpoint"
    module = types.ModuleType(name)
    callback = type("ModelCheckpoint", (), {"__module__": name})
    module.ModelCheckpoint = callback  # type: ignore[attr-defined]
    with monkeypatch.context() as patch:
        for part in ("pytorch_lightning", "pytorch_lightning.callbacks", name):
            patch.setitem(sys.modules, part, module)
        callbacks = {callback: {"best": np.float64(0.5), "itself": callback()}}
        save(tmp_path / "sd.ckpt", {"callbacks": callbacks, "state_dict": TENSORS})
    assert read_tensors(tmp_path / "sd.ckpt").keys() == TENSORS.keys()


def test_hostile_pickles_do_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for protocol in (2, 4):
        torch.save({"a": Escape()}, tmp_path / "zip.ckpt", pickle_protocol=protocol)
        with pytest.raises(StylizerError, match=r"zip.ckpt: ") as error:
            read_tensors(tmp_path / "zip.ckpt")
        assert "\n" not in str(error.value)
    save(tmp_path / "zip.ckpt", {"a": Escape()})
    with pytest.raises(StylizerError, match=r"it asks for posix.system, which was refused and not"):
        read_tensors(tmp_path / "zip.ckpt")
    for protocol in range(6):
        (tmp_path / "plain.ckpt").write_bytes(pickle.dumps({"a": Escape()}, protocol))
        with pytest.raises(StylizerError, match=r"plain.ckpt: "):
            read_tensors(tmp_path / "plain.ckpt")
    assert not (tmp_path / "escaped").exists()


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty; download it again"),
        (b"<!DOCTYPE html><html>", "a web page saved under this name; download the file itself"),
        (b"\xef\xbb\xbf\n <html>", "a web page saved under this name"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
            "a git-lfs pointer, not the file itself; run 'git lfs pull'",
        ),
        (b"GGUF\x03", "a GGUF file"),
        (b"\x00" * 100, "not a checkpoint, or one that"),
        (b"\x40\x00\x00\x00\x00\x00\x00\x00{" + b" " * 20, "not a whole safetensors file"),
    ],
)
def test_what_is_no_checkpoint_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "model.ckpt", content)
    with pytest.raises(StylizerError) as error:
        read_tensors(path)
    assert str(error.value).startswith(f"{path}: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("form", ["safetensors", "zip", "legacy"])
@pytest.mark.parametrize("kept", [0.2, 0.5, 0.9, 0.99])
def test_truncated_files_are_named(form: str, kept: float, tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    if form == "safetensors":
        save_file(TENSORS, path)
    else:
        save(path, _use_new_zipfile_serialization=form == "zip")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(StylizerError) as error:
        read_tensors(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def test_content_that_is_no_state_dict(tmp_path: Path) -> None:
    with pytest.raises(StylizerError, match="not a dict of named tensors"):
        read_tensors(save(tmp_path / "list.pt", [torch.ones(1)]))
    with pytest.raises(StylizerError, match="not a dict of named tensors"):
        read_tensors(save(tmp_path / "numbers.pt", {1: torch.ones(1)}))
    with pytest.raises(StylizerError, match=r"no tensors in it, only 'model', 'step'"):
        read_tensors(save(tmp_path / "nested.pt", {"model": TENSORS, "step": 1}))
    with zipfile.ZipFile(tmp_path / "archive.ckpt", "w") as archive:
        archive.writestr("readme.txt", "no checkpoint")
    with pytest.raises(StylizerError, match=r"archive.ckpt: damaged, or no torch checkpoint"):
        read_tensors(tmp_path / "archive.ckpt")
    with pytest.raises(StylizerError, match="nothing: no such file"):
        read_tensors(tmp_path / "nothing")
    with pytest.raises(StylizerError, match="not a file"):
        read_tensors(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"), [("{", "not JSON"), ("[1]", "not a JSON object"), (None, "cannot read")]
)
def test_json(text: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(StylizerError, match=message):
        read_json(path)
