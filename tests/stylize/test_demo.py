"""The stylizer in the package: its size, and that it does what it is there for."""

import pytest
import torch

import eg3d_renderer as er
from manifests.shipped import stylizer_folder
from stylize import DiffStyle360, Sampling, demo, metrics, stylize_views

FOLDER = stylizer_folder()
STYLES = ("statue", "zombie")
IDENTITY, LENDER = 4_000_000_001, 4_000_000_002


@pytest.fixture(scope="module")
def model() -> DiffStyle360:
    return DiffStyle360.from_pretrained(FOLDER, torch.float32).eval()


def test_its_size(model: DiffStyle360) -> None:
    assert model.config == demo()
    assert sum(parameter.numel() for parameter in model.parameters()) < 25e6
    assert (FOLDER / "model.safetensors").stat().st_size < 50e6


def render(style: str, seed: int, views: int) -> torch.Tensor:
    """[V, 3, 128, 128] in [-1, 1]"""
    generator = er.load_generator(f"demo:{style}" if style else "demo")
    z = er.latents([seed], generator.z_dim)
    z[:, generator.instance] = er.latents([360], generator.z_dim)[:, generator.instance]
    ws = generator.mapping(z)
    labels = er.cameras.orbit(views, **generator.camera)
    with torch.inference_mode():
        return generator.render(generator.planes(ws), ws, labels)["image"].clamp(-1, 1)


def test_it_follows_its_style_image(model: DiffStyle360) -> None:
    """What it makes of a head is nearer that head in the style than the head as it is, and than the
    head in another style."""
    content = render("", IDENTITY, 4)
    mask = metrics.estimate_foreground(content)
    truth = {style: render(style, IDENTITY, 4) for style in STYLES}

    def psnr(image: torch.Tensor, style: str) -> float:
        return float(metrics.masked_psnr(image, truth[style], mask).mean())

    for style, other in (STYLES, STYLES[::-1]):
        made = stylize_views(
            model, content[:1], content[2:3], content[None], render(style, LENDER, 1)[0],
            Sampling(steps=4), [0],
        )[0].clamp(-1, 1)  # fmt: skip
        assert psnr(made, style) > psnr(content, style) + 1
        assert psnr(made, style) > psnr(made, other) + 1
