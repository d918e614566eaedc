"""What doctor says of a whole machine, of one without a compiler, and of a wrong kernel."""

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from eg3d_renderer.errors import RendererError
from eg3d_renderer.ops import native
from eg3d_renderer.ops.native import build, library
from pipeline import doctor
from pipeline.cli import cli

needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="needs a C++ compiler"
)


def examine(*arguments: str) -> tuple[int, str]:
    shown = CliRunner().invoke(cli, ["doctor", "--device", "cpu", *arguments])
    if shown.exception and not isinstance(shown.exception, SystemExit):
        raise shown.exception
    return shown.exit_code, shown.output


@needs_compiler
def test_every_op_is_native_and_agrees() -> None:
    code, told = examine()
    assert code == 0
    for op in native.OPS:
        assert f"  {op:12} native, agrees with the reference to " in told
    for what in ("processor", "torch", "C++", "libraries"):
        assert what in told


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv("DIFFSTYLE360_CACHE", str(tmp_path))
    monkeypatch.setattr(library, "load", library.load.__wrapped__)
    monkeypatch.setattr(native, "load", library.load)


def test_machine_without_a_compiler_uses_references(no_compiler: None) -> None:
    code, told = examine()
    assert code == 0
    for op in native.OPS:
        assert f"  {op:12} reference: CXX=no-such-compiler: no such program" in told


def test_build_without_a_compiler_fails(no_compiler: None) -> None:
    with pytest.raises(RendererError, match="CXX=no-such-compiler"):
        examine("--build")


@needs_compiler
def test_wrong_kernel_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "disagreement", lambda op, device: 0.5 if op == "march" else 0)
    code, told = examine()
    assert code == 1
    assert "march        native, IS WRONG, it differs from the reference to 5.0e-01" in told


@needs_compiler
def test_libraries_of_a_wheel_are_found_by_their_sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST", raising=False)
    code, told = examine("--build", "--into", str(tmp_path / "prebuilt"))
    assert code == 0
    for op in native.OPS:
        assert (tmp_path / "prebuilt" / build.library_name(op, "cpu")).is_file()
        assert build.library_name(op, "cpu") in told


def test_into_goes_with_build() -> None:
    code, told = examine("--into", "somewhere")
    assert code == 2
    assert "--into goes with --build" in told
