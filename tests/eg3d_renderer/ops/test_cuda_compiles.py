"""Every CUDA kernel compiles, links and loads, where there is a CUDA toolkit and no GPU either."""

from pathlib import Path

import pytest
import torch

from eg3d_renderer.errors import RendererError
from eg3d_renderer.ops import native
from eg3d_renderer.ops.native import build, compilers


@pytest.mark.parametrize("op", [op for op, facts in native.OPS.items() if "cuda" in facts.backends])
def test_kernels_compile_for_ampere_and_hopper(
    op: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    try:
        compilers.cuda_compiler()
    except RendererError as error:
        pytest.skip(str(error))
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.0 9.0")
    library = build.build(op, "cuda", native.OPS[op].isas, tmp_path)
    torch.ops.load_library(library)
    name = f"diffstyle360::{op}"
    assert torch._C._dispatch_has_kernel_for_dispatch_key(name, "CUDA")


def test_every_kernel_is_declared() -> None:
    folders = {path.parent.name for path in build.OPS_FOLDER.glob("*/kernel.cu")}
    assert folders == {op for op, facts in native.OPS.items() if "cuda" in facts.backends}
