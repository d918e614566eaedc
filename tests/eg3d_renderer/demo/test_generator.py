import os
import subprocess
import sys

import pytest
import torch

import eg3d_renderer as er
from eg3d_renderer.demo.generator import ProceduralHeads

KEYS = {"image", "image_raw", "image_depth", "image_mask"}


@pytest.fixture(scope="module")
def natural() -> ProceduralHeads:
    return ProceduralHeads()


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() == KEYS and all(torch.equal(one[k], other[k]) for k in KEYS)


def test_shapes_and_ranges(natural: ProceduralHeads) -> None:
    ws = natural.mapping(er.latents([4], 48))
    assert ws.shape == (1, natural.num_ws, natural.w_dim)
    out = natural.synthesis(ws, er.cameras.orbit(2), 33)
    assert out["image"].shape == out["image_raw"].shape == (2, 3, 33, 33)
    assert out["image_depth"].shape == out["image_mask"].shape == (2, 1, 33, 33)
    assert all(torch.isfinite(v).all() for v in out.values())
    assert -1 <= out["image"].min() < -0.5
    assert out["image"].max() == 1
    assert out["image_mask"].min() == 0
    assert out["image_mask"].max() == 1


def test_synthesis_is_render_of_planes(natural: ProceduralHeads) -> None:
    ws, cam = natural.mapping(er.latents([1], 48)), er.cameras.orbit(2, elevation=5)
    assert equal(natural.synthesis(ws, cam, 32), natural.render(natural.planes(ws), ws, cam, 32))


@pytest.mark.parametrize("style", ["natural", "zombie"])
def test_view_does_not_depend_on_number_or_order_of_views(style: str) -> None:
    gen = ProceduralHeads(style)
    ws, cam = gen.mapping(er.latents([2], 48)), er.cameras.orbit(5)
    planes = gen.planes(ws)
    together = gen.render(planes, ws, cam, 47)
    backwards = gen.render(planes, ws, cam.flip(0), 47)
    alone = gen.render(planes, ws, cam[3:4], 47)
    assert equal(together, {k: v.flip(0) for k, v in backwards.items()})
    assert equal(alone, {k: v[3:4] for k, v in together.items()})


def test_identity_does_not_depend_on_its_company(natural: ProceduralHeads) -> None:
    ws, cam = natural.mapping(er.latents([8, 9], 48)), er.cameras.orbit(2)
    together = natural.synthesis(ws, cam, 32)
    alone = natural.synthesis(ws[1:], cam[1:], 32)
    assert equal(alone, {k: v[1:] for k, v in together.items()})


def test_view_does_not_depend_on_threads() -> None:
    program = """if True:
        import hashlib, torch
        import eg3d_renderer as er
        torch.set_num_threads({threads})
        gen = er.load_generator("procedural")
        out = gen.synthesis(gen.mapping(er.latents([5], 48)), er.cameras.orbit(3)[1:2], 128)
        print(hashlib.sha256(b"".join(v.numpy().tobytes() for v in out.values())).hexdigest())
    """
    made = [
        subprocess.run(
            [sys.executable, "-c", program.format(threads=threads)],
            env=os.environ | {"OMP_WAIT_POLICY": "passive"},
            check=True,
            capture_output=True,
        ).stdout
        for threads in (1, 2)
    ]
    assert made[0] == made[1]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_latent_must_be_finite(natural: ProceduralHeads, value: float) -> None:
    z = er.latents([0, 1, 2], 48)
    z[1, 17] = value
    with pytest.raises(er.RendererError, match="non-finite latent in row 1"):
        natural.mapping(z)


def test_latent_must_have_the_width(natural: ProceduralHeads) -> None:
    with pytest.raises(er.RendererError, match=r"\[2, 40\], expected \[N, 48\]"):
        natural.mapping(torch.zeros(2, 40))


def test_extreme_latents_render(natural: ProceduralHeads) -> None:
    out = natural.synthesis(natural.mapping(torch.full((1, 48), 1e30)), er.cameras.orbit(1), 32)
    assert all(torch.isfinite(v).all() for v in out.values())


def test_truncation_draws_identity_to_the_mean_and_keeps_the_instance(
    natural: ProceduralHeads,
) -> None:
    z = er.latents([3], 48)
    full, half = natural.mapping(z), natural.mapping(z, truncation_psi=0.5)
    assert torch.equal(half[..., :40], 0.5 * full[..., :40])
    assert torch.equal(half[..., 40:], full[..., 40:])
    assert torch.equal(natural.mapping(z, truncation_psi=0.5, truncation_cutoff=0), full)


def test_mapping_does_not_read_the_camera(natural: ProceduralHeads) -> None:
    z = er.latents([3], 48)
    assert torch.equal(natural.mapping(z, er.cameras.orbit(1)), natural.mapping(z))


def test_render_refuses_counts_that_do_not_match(natural: ProceduralHeads) -> None:
    ws = natural.mapping(er.latents([0, 1], 48))
    with pytest.raises(er.RendererError, match="2 planes, 2 ws, 3 cameras"):
        natural.render(natural.planes(ws), ws, er.cameras.orbit(3), 16)
