"""Compilers found, libraries built once and shared, and what happens where that fails."""

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from eg3d_renderer.errors import RendererError
from eg3d_renderer.ops import native
from eg3d_renderer.ops.native import build, compilers, library

pytestmark = pytest.mark.skipif(
    not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="needs a C++ compiler"
)

KERNEL = """
#include "../native/simd.h"
namespace twice::ISA {
void run(const float* x, float* y, long n) { for (long i = 0; i < n; ++i) y[i] = 2 * x[i]; }
}
"""
BINDING = """
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>
using torch::stable::Tensor;
namespace twice::portable { void run(const float* x, float* y, long n); }
void twice_op(const Tensor& x, Tensor y) {
  twice::portable::run(static_cast<const float*>(x.const_data_ptr()),
                       static_cast<float*>(y.mutable_data_ptr()), x.numel());
}
STABLE_TORCH_LIBRARY_IMPL(diffstyle360, CPU, m) { m.impl("twice", TORCH_BOX(&twice_op)); }
"""


@pytest.fixture
def write_op(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Puts an op named `twice` where ops are looked for, and a cache of its own."""
    ops = tmp_path / "ops"
    shutil.copytree(build.OPS_FOLDER / "native", ops / "native")
    monkeypatch.setattr(build, "OPS_FOLDER", ops)
    monkeypatch.setenv("DIFFSTYLE360_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(library.OPS, "twice", native.Op(isas=("portable",), backends=("cpu",)))

    def write(kernel: str = KERNEL, binding: str = BINDING) -> None:
        (ops / "twice").mkdir(exist_ok=True)
        (ops / "twice" / "kernel.cpp").write_text(kernel)
        (ops / "twice" / "binding.cpp").write_text(binding)
        library.load.cache_clear()
        library._tell_once.cache_clear()

    yield write
    library.load.cache_clear()
    library._tell_once.cache_clear()


def counting_compiler(folder: Path) -> tuple[Path, Path]:
    """A compiler that leaves a line in a log for each call, and the log."""
    log, path = folder / "calls", folder / "counting-c++"
    real = compilers.cpp_compiler().path
    path.write_text(f'#!/bin/sh\n[ "$1" = --version ] || echo "$@" >> {log}\nexec {real} "$@"\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path, log


def test_op_is_compiled_loaded_and_called(write_op: Callable) -> None:
    write_op()
    native.define("twice(Tensor x, Tensor(a!) y) -> ()")
    x, y = torch.arange(5.0), torch.empty(5)
    assert native.use("twice", "auto", x)
    torch.ops.diffstyle360.twice(x, y)
    assert torch.equal(y, 2 * x)
    assert not native.use("twice", "reference", x)
    with native.chosen("reference"):
        assert not native.use("twice", "auto", x)
    assert native.use("twice", "auto", x)


def test_same_sources_are_compiled_once(
    write_op: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler, log = counting_compiler(tmp_path)
    monkeypatch.setenv("CXX", str(compiler))
    write_op()
    cache = tmp_path / "cache"
    first = build.build("twice", "cpu", ("portable",), cache)
    calls = len(log.read_text().splitlines())
    assert calls == 3  # kernel, binding, library
    assert build.build("twice", "cpu", ("portable",), cache) == first
    assert len(log.read_text().splitlines()) == calls
    write_op(KERNEL.replace("2 *", "2.0f *"))
    assert build.build("twice", "cpu", ("portable",), cache) != first
    assert len(log.read_text().splitlines()) == 2 * calls


def test_many_jobs_at_once_compile_once(
    write_op: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_op()
    compiler, log = counting_compiler(tmp_path)
    code = (
        "import sys; from pathlib import Path; from eg3d_renderer.ops.native import build;"
        f"build.OPS_FOLDER = Path({str(build.OPS_FOLDER)!r});"
        f"print(build.build('twice', 'cpu', ('portable',), Path({str(tmp_path / 'cache')!r})))"
    )
    jobs = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env=os.environ | {"CXX": str(compiler)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    libraries = {job.communicate()[0].strip() for job in jobs}
    assert [job.returncode for job in jobs] == [0] * 4
    assert len(libraries) == 1
    assert Path(libraries.pop()).is_file()
    assert len(log.read_text().splitlines()) == 3
    assert not list((tmp_path / "cache" / "ops").glob(".*"))  # nothing half-built is left


def test_broken_source_falls_back_with_one_line(
    write_op: Callable, capsys: pytest.CaptureFixture
) -> None:
    write_op(kernel="#error deliberately broken")
    x = torch.ones(3)
    assert not native.use("twice", "auto", x)
    assert not native.use("twice", "auto", x)
    compiling, told, *more = capsys.readouterr().err.splitlines()
    assert compiling == "diffstyle360: compiling twice for cpu, once"
    assert not more
    assert "twice runs as plain PyTorch on cpu, slower, since twice does not compile:" in told
    assert "deliberately broken" in told
    with pytest.raises(RendererError, match="twice: twice does not compile"):
        native.use("twice", "native", x)


def test_without_a_compiler_the_line_says_what_to_install(
    write_op: Callable, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(compilers.shutil, "which", lambda name: None)
    write_op()
    assert not native.use("twice", "auto", torch.ones(1))
    assert "no C++ compiler; install one ('apt install g++'" in capsys.readouterr().err


def test_compiler_that_is_not_there_is_named(
    write_op: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    write_op()
    with pytest.raises(RendererError, match="CXX=no-such-compiler: no such program"):
        native.use("twice", "native", torch.ones(1))


def test_cache_that_cannot_be_written_is_named(
    write_op: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DIFFSTYLE360_CACHE", str(tmp_path / "file"))
    write_op()
    with pytest.raises(RendererError, match=r"file/ops: Not a directory"):
        native.use("twice", "native", torch.ones(1))


def test_damaged_library_is_a_reason_not_a_crash(write_op: Callable, tmp_path: Path) -> None:
    write_op()
    path = build.build("twice", "cpu", ("portable",), tmp_path / "cache")
    path.write_bytes(path.read_bytes()[:100])
    reason = native.load("twice", "cpu")
    assert reason is not None
    assert str(path) in reason


def test_library_that_came_with_the_package_needs_no_compiler(
    write_op: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_op()
    built = build.build("twice", "cpu", ("portable",), tmp_path / "cache")
    monkeypatch.setattr(build, "PREBUILT", tmp_path / "prebuilt")
    (tmp_path / "prebuilt").mkdir()
    shutil.copy(built, tmp_path / "prebuilt" / build.library_name("twice", "cpu"))
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert native.load("twice", "cpu") is None
    write_op(KERNEL + "// newer")
    assert "no-such-compiler" in (native.load("twice", "cpu") or "")


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ([torch.ones(1, dtype=torch.float64)], "no kernel for torch.float64 on cpu"),
        ([torch.ones(1, device="meta")], "no kernel for meta"),
        ([torch.ones(1, requires_grad=True)], "no gradient"),
        ([torch.ones(1), torch.ones(1, device="meta")], "tensors on cpu and on meta"),
    ],
)
def test_tensors_that_no_kernel_takes(
    write_op: Callable, tensors: list, reason: str, capsys: pytest.CaptureFixture
) -> None:
    write_op()
    assert not native.use("twice", "auto", *tensors)
    assert capsys.readouterr().err == ""  # nothing is amiss with the machine
    with pytest.raises(RendererError, match=reason):
        native.use("twice", "native", *tensors)


def test_unknown_impl_is_refused() -> None:
    with pytest.raises(RendererError, match="impl: 'fastest' is not one of auto, native, ref"):
        native.use("bias_act", "fastest", torch.ones(1))


@pytest.mark.parametrize(
    ("listed", "flags"),
    [
        ("8.0", ["-gencode=arch=compute_80,code=sm_80"]),
        (
            "8.0;9.0+PTX",
            [
                "-gencode=arch=compute_80,code=sm_80",
                "-gencode=arch=compute_90,code=sm_90",
                "-gencode=arch=compute_90,code=compute_90",
            ],
        ),
        ("5.2 7.0 9.0a", ["-gencode=arch=compute_90a,code=sm_90a"]),
    ],
)
def test_architectures_are_those_listed(
    listed: str, flags: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", listed)
    assert compilers.cuda_architectures() == flags


def test_architectures_that_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.0 Hopper")
    with pytest.raises(RendererError, match=r"'Hopper' is not like 8\.0 or 9\.0\+PTX"):
        compilers.cuda_architectures()
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "6.1 7.0")
    with pytest.raises(RendererError, match=r"no GPU of compute capability 7\.5 or newer"):
        compilers.cuda_architectures()
    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(RendererError, match="name some: TORCH_CUDA_ARCH_LIST"):
        compilers.cuda_architectures()


def test_toolkit_newer_than_the_driver_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch._C, "_cuda_getDriverVersion", lambda: 12040, raising=False)
    compilers._check_driver("Build cuda_12.8.r12.8/compiler.1_0")
    with pytest.raises(RendererError, match="nvcc is of CUDA 13, the driver of CUDA 12; update"):
        compilers._check_driver("Build cuda_13.0.r13.0/compiler.1_0")


def test_no_nvcc_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    with pytest.raises(RendererError, match="it holds no bin/nvcc"):
        compilers.cuda_compiler()
