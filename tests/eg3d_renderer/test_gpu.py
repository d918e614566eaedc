"""A GPU sees what a CPU sees: the same images to rounding, and in half precision nearly."""

import pytest
import torch

import eg3d_renderer as er
from tests.eg3d_renderer import oracle

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture(autouse=True)
def exact_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.mark.parametrize("name", oracle.MODELS)
@pytest.mark.parametrize("half", [False, True])
def test_views_are_those_of_the_cpu(name: str, half: bool) -> None:
    spec = oracle.facts(name)
    generator = oracle.build(spec)
    for block in (generator.superresolution.block0, generator.superresolution.block1):
        block.fp16 = half
    cam = er.cameras.orbit(4, **generator.camera)
    ws = generator.mapping(er.latents([0], 512), truncation_psi=0.7)
    expected = generator.synthesis(ws, cam)
    on_gpu = generator.cuda()
    ws = on_gpu.mapping(er.latents([0], 512).cuda(), truncation_psi=0.7)
    made = on_gpu.synthesis(ws, cam.cuda())
    for key in ("image_raw", "image_mask"):
        torch.testing.assert_close(made[key].cpu(), expected[key], rtol=0, atol=5e-3)
    error = (made["image"].cpu() - expected["image"]).square().mean()
    signal = expected["image"].square().mean()
    assert error / signal < (1e-5 if half else 1e-8)
