"""Rendering through an official checkpoint: what differs from the procedural heads."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import eg3d_renderer as er
from eg3d_renderer import geometry
from eg3d_renderer.ops import native
from pipeline.counts import count_column
from pipeline.folders import RunFolder
from pipeline.shards.codecs import depth_from_levels, to_uint8
from pipeline.shards.reader import Column, read_clip
from pipeline.shards.records import read_commit
from pipeline.shards.verify import verify_column
from pipeline.stages.plan import plan_run
from pipeline.stages.render import render_seed, render_shard, rig_labels
from tests.eg3d_renderer import oracle
from tests.eg3d_renderer.checkpoints.official_writer import write_generator

CPU = torch.device("cpu")
GAN = {
    "identities": {"train": "17,4"},
    "styles": {},
    "finetune": None,
    "stylize": None,
    "rig.views": 3,
    "shards.identities": 8,
}


@pytest.fixture
def render_gan(open_variant: Callable[..., RunFolder], tiny_panohead: Path) -> Callable:
    def render(**outputs: object) -> tuple[RunFolder, Column]:
        folder = open_variant({"generator.source": str(tiny_panohead), **GAN, "outputs": outputs})
        plan_run(folder)
        render_shard(folder, "render", "train-00000", CPU)
        return folder, Column(folder.column("render"))

    return render


def test_seed_is_upstreams_and_camera_the_familys(
    render_gan: Callable, tiny_panohead: Path
) -> None:
    _, column = render_gan()
    sample = column.read("train-00000000")
    meta = sample["json"]
    assert meta["seed"] == 17
    assert meta["generator"]["source"] == tiny_panohead.name
    assert meta["truncation_psi"] == pytest.approx(0.7)
    assert (meta["resolution"], meta["neural_rendering_resolution"]) == (128, 32)
    generator = er.load_generator(tiny_panohead)
    cameras = er.cameras.orbit(3, radius=2.7, pivot=(0, 0, 0))
    torch.testing.assert_close(torch.tensor([v["label"] for v in meta["views"]]), cameras)
    frontal = er.cameras.orbit(1, radius=2.7, pivot=(0, 0, 0))
    ws = generator.mapping(er.latents([17], 512), frontal, 0.7, 14)
    image = to_uint8(generator.synthesis(ws, cameras[1:2])["image"])[0]
    np.testing.assert_array_equal(sample["view_01.rgb.png"], image)


def test_depths_masks_and_normals_are_of_the_neural_resolution(render_gan: Callable) -> None:
    folder, column = render_gan(
        neural_rendering_resolution=24, depth="png16", z_depth="npy", normals=True
    )
    assert not verify_column(folder.column("render"))
    sample = column.read("train-00000001")
    meta = sample["json"]
    assert sample["view_02.rgb.png"].shape == (128, 128, 3)
    assert sample["view_02.depth.png"].shape == sample["view_02.mask.png"].shape == (24, 24)
    limits = meta["depth"]
    distance = depth_from_levels(sample["view_02.depth.png"], limits["start"], limits["end"])
    label = torch.tensor(meta["views"][2]["label"])[None]
    seen = torch.from_numpy(distance)[None, None]
    expected = geometry.z_depth(seen, label)[0, 0].numpy()
    there = sample["view_02.mask.png"] >= 128
    assert 0 < there.sum() < there.size
    z = sample["view_02.zdepth.npy"]
    np.testing.assert_allclose(z[there], expected[there], atol=2e-5)
    assert (z[~there] == np.float32(limits["end"])).all()
    assert (sample["view_02.depth.png"][~there] == 65535).all()
    normals = sample["view_02.normal.png"].astype(np.float32) / 127.5 - 1
    lengths = np.linalg.norm(normals, axis=-1)
    shown = lengths > 0.5
    np.testing.assert_allclose(lengths[shown], 1, atol=0.02)
    assert not shown[~there].any()


def test_images_can_be_smaller(render_gan: Callable, tiny_panohead: Path) -> None:
    folder, column = render_gan(resolution=48)
    stored = column.read("train-00000000")["view_00.rgb.png"]
    assert stored.shape == (48, 48, 3)
    generator = er.load_generator(tiny_panohead)
    views = render_seed(folder.run, generator, rig_labels(folder.run, generator), 17, 0)
    assert views["image"].shape == (3, 3, 48, 48)


@pytest.mark.parametrize(
    ("outputs", "message"),
    [({"resolution": 256}, "outputs.resolution: 256 is more than the 128")],
)
def test_images_cannot_be_larger(render_gan: Callable, outputs: dict, message: str) -> None:
    with pytest.raises(er.RendererError, match=message):
        render_gan(**outputs)


def test_procedural_heads_have_no_neural_resolution(open_variant: Callable) -> None:
    folder = open_variant({"outputs.neural_rendering_resolution": 16})
    plan_run(folder)
    with pytest.raises(er.RendererError, match="leave it out"):
        render_shard(folder, "render", "test-00000", CPU)


def test_same_checkpoint_elsewhere_is_the_same_run(
    open_variant: Callable, tiny_panohead: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "elsewhere.pkl"
    copy.write_bytes(tiny_panohead.read_bytes())
    digests = {
        open_variant({"generator.source": str(path), **GAN}).run.digest()
        for path in (tiny_panohead, copy)
    }
    assert len(digests) == 1
    copy.write_bytes(copy.read_bytes() + b" ")
    changed = open_variant({"generator.source": str(copy), **GAN}).run.digest()
    assert changed not in digests


def test_poisoned_identity_is_a_failed_row(
    render_gan: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = er.families.PanoHead.mapping

    def poisoned(self, z, *rest, **options):
        ws = real(self, z, *rest, **options)
        return ws * torch.nan if torch.equal(z, er.latents([4], 512)) else ws

    monkeypatch.setattr(er.families.PanoHead, "mapping", poisoned)
    folder, column = render_gan()
    assert column.keys == ["train-00000000"]
    assert "non_finite" in count_column(folder.column("render")).summary()


def test_style_columns_have_the_base_columns_cameras(
    open_variant: Callable[..., RunFolder], tmp_path: Path
) -> None:
    """An adapted copy that was saved with another radius is seen from where the original is."""
    spec = oracle.facts("panohead_tiny")
    state = oracle.state_of(spec)
    write_generator(tmp_path / "base.pkl", spec, state)
    spec["init_kwargs"]["rendering_kwargs"]["avg_camera_radius"] = 2.5
    write_generator(tmp_path / "style.pkl", spec, state)
    sources = {
        "generator.source": str(tmp_path / "base.pkl"),
        "styles": {"other": {"source": str(tmp_path / "style.pkl")}},
    }
    folder = open_variant({**GAN, **sources})
    plan_run(folder)
    seen = []
    for column in folder.run.columns:
        render_shard(folder, column, "train-00000", CPU)
        seen.append(Column(folder.column(column)).read("train-00000000")["json"]["views"])
    assert seen[0] == seen[1]


def test_record_says_how_it_was_computed(render_gan: Callable, open_variant: Callable) -> None:
    folder, _ = render_gan()
    made = read_commit(folder.column("render") / "train-00000.parquet").provenance
    assert made["precision"] == "exact"
    assert made["ops"] == native.implementations(CPU)
    assert set(made["ops"].values()) <= {"native", "reference"}


def test_fast_is_near_exact_and_another_run(
    open_variant: Callable[..., RunFolder], tiny_panohead: Path
) -> None:
    images, names = [], set()
    for precision in ("exact", "fast"):
        source = {"source": str(tiny_panohead), "precision": precision}
        folder = open_variant({"generator": source, **GAN})
        names.add(folder.path.name)
        plan_run(folder)
        render_shard(folder, "render", "train-00000", CPU)
        column = Column(folder.column("render"))
        images.append(read_clip(column, "train-00000000", [0, 1, 2]).astype(np.float64))
    assert len(names) == 2
    error = np.square(images[0] - images[1]).mean()
    assert 10 * np.log10(255**2 / max(error, 1e-9)) > 45
