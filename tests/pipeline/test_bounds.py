"""No bound is below what is then written."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import eg3d_renderer as er
from manifests import RunManifest
from pipeline import bounds
from pipeline.bounds import Sizes
from pipeline.errors import PipelineError
from pipeline.folders import RunFolder
from pipeline.shards import codecs
from pipeline.space import CHECKPOINTS_KEPT, estimate_bytes
from pipeline.stages.encode import encode_shard, open_encoder
from pipeline.stages.plan import plan_run
from pipeline.stages.render import _sizes, render_shard
from stylize import DiffStyle360, FinetuneSettings, StylizerConfig, demo
from tests.pipeline.conftest import CPU
from tests.pipeline.made import bytes_in
from tests.shipped import needs_demo_weights

Open = Callable[..., RunFolder]


@pytest.mark.parametrize("size", [8, 33, 128])
def test_no_image_is_larger_than_its_bound(size: int) -> None:
    draws = np.random.default_rng(size)
    noise = draws.integers(0, 256, (size, size, 3), np.uint8)
    harsh = draws.integers(0, 2, (size, size, 3), np.uint8) * np.uint8(255)
    depth = draws.random((size, size), np.float32)
    coded = [(3, codecs.encode_rgb(i, f)) for i in (noise, harsh) for f in ("png", "webp", "jpeg")]
    coded += [(2, codecs.encode_depth(depth, 0.0, 1.0, "png16")), (1, codecs.encode_mask(depth))]
    coded += [(4, codecs.encode_depth(depth, 0.0, 1.0, "npy"))]
    for channels, data in coded:
        assert len(data) <= bounds.bound_image(channels * size**2)


@pytest.mark.parametrize(
    "outputs",
    [
        {"rgb": "webp", "depth": "npy", "z_depth": "png16", "normals": True, "resolution": 24},
        {"rgb": "jpeg", "depth": "none", "mask": False, "resolution": 16},
    ],
)
def test_a_bound_holds_for_every_output(open_variant: Open, outputs: dict[str, Any]) -> None:
    folder = open_variant({"outputs": outputs})
    plan_run(folder)
    for column in folder.run.columns:
        bound = bounds.bound_sample(folder.run, column)
        render_shard(folder, column, "train-00001", CPU)  # of one identity
        assert bytes_in(folder, column) <= bound + bounds.SHARD_ENDS
        assert bound < 8 * bytes_in(folder, column) + 40_000


def test_a_bound_holds_for_latents(open_variant: Open, vae_model: Path) -> None:
    wanted = {"steps": 1, "views": 2, "start": str(vae_model), "cache_latents": True}
    folder = open_variant({"finetune": wanted})
    plan_run(folder)
    for column in ("render", "style-statue"):
        render_shard(folder, column, "train-00001", CPU)
        encode_shard(open_encoder(folder, CPU), column, "train-00001")
        bound = bounds.bound_sample(folder.run, f"latents-{column}")
        assert bytes_in(folder, f"latents-{column}") <= bound + bounds.SHARD_ENDS
    needs = {need.name: need for need in estimate_bytes(folder)}
    assert needs["latents-render"].measured
    assert needs["latents-render"].bytes > 0


@pytest.fixture
def vae_model(tmp_path: Path) -> Path:
    """A stylizer whose latents are an autoencoder's, of a few thousand parameters."""
    config = StylizerConfig(
        image_size=32, latent_factor=2, channels=(8,), attention=(True,), motion=(1,), layers=1,
        heads=2, groups=4, cross_attention_dim=8, hint_channels=(8, 8), window=2,
        vae_channels=(4, 4), style_encoder="lora", lora_rank=2, back_view=True,
    )  # fmt: skip
    DiffStyle360(config).save_pretrained(tmp_path / "vae")
    return tmp_path / "vae"


@pytest.mark.parametrize("train", ["all", "style"])
def test_checkpoints_hold_what_is_trained_four_times(
    open_variant: Open, vae_model: Path, train: str
) -> None:
    wanted = {"steps": 1, "views": 2, "start": str(vae_model), "train": train}
    run = open_variant({"finetune": wanted}).run
    trained = DiffStyle360.from_pretrained(vae_model).trainable_parameters(train)
    checkpoint, model = bounds.bound_checkpoint(run)
    bytes_of_all = 16 * sum(p.numel() for p in trained.values())
    assert bytes_of_all <= checkpoint - 1_000_000 < 1.01 * bytes_of_all  # a few buffers
    assert model > (vae_model / "model.safetensors").stat().st_size
    assert FinetuneSettings(steps=1).checkpoints_kept == CHECKPOINTS_KEPT


def test_a_fine_tune_from_nothing_has_the_sizes_of_the_one_in_the_package() -> None:
    preset, shipped = json.loads(demo().to_json()), bounds.stylizer_config(None)
    for key in ("image_size", "latent_factor", "vae_channels", "channels", "style_encoder"):
        assert shipped[key] == preset[key]


def test_a_damaged_stylizer_is_one_line(open_variant: Open, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_text("{}")
    run = open_variant({"stylize.model": str(folder), "finetune": None}).run
    with pytest.raises(PipelineError, match=r"model/config.json: has no image_size; is it"):
        bounds.bound_sample(run, "stylized-statue")
    (folder / "config.json").write_text("{")
    with pytest.raises(PipelineError, match=r"model/config.json: cannot read it"):
        bounds.bound_sample(run, "stylized-statue")
    run = open_variant({"finetune": {"steps": 1, "views": 2, "start": str(folder)}}).run
    with pytest.raises(PipelineError, match=r"model.safetensors: not a readable safetensors file"):
        bounds.bound_checkpoint(run)


@needs_demo_weights
@pytest.mark.parametrize("source", ["procedural", "demo"])
@pytest.mark.parametrize("outputs", [{}, {"resolution": 32}])
def test_sizes_are_the_generators_own(source: str, outputs: dict[str, int]) -> None:
    run = rendering(source, outputs)
    assert bounds.find_sizes(run) == Sizes(*_sizes(run.outputs, er.load_generator(source)))


def test_sizes_of_checkpoints(tiny_panohead: Path, tmp_path: Path) -> None:
    from eg3d_renderer.checkpoints import read_official, save_checkpoint

    save_checkpoint(read_official(tiny_panohead), tmp_path / "tiny")
    generator = er.load_generator(tmp_path / "tiny")
    for outputs in ({}, {"resolution": 64, "neural_rendering_resolution": 16}):
        for source in (tmp_path / "tiny", tmp_path / "tiny" / "model.safetensors"):
            run = rendering(str(source), outputs)
            assert bounds.find_sizes(run) == Sizes(*_sizes(run.outputs, generator))
    assert bounds.find_sizes(rendering(str(tiny_panohead), {})) == Sizes(512, 128)
    (tmp_path / "tiny" / "config.json").write_text("[]")
    with pytest.raises(PipelineError, match=r"config.json: has no neural_rendering_resolution"):
        bounds.find_sizes(rendering(str(tmp_path / "tiny"), {}))


def rendering(source: str, outputs: dict[str, int]) -> RunManifest:
    content = {
        "name": "sized", "seed": 0, "generator": {"source": source}, "identities": {"train": 1},
        "rig": {"views": 2}, "outputs": outputs,
    }  # fmt: skip
    return RunManifest.model_validate(content)
