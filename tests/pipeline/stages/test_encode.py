"""Latents are encoded once, verified like any column, and trained on in place of images."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from pipeline.cli import cli
from pipeline.errors import PipelineError
from pipeline.folders import RunFolder
from pipeline.images import to_model
from pipeline.shards.reader import Column, read_clip
from pipeline.shards.verify import verify_column
from pipeline.stages.clips import Clips
from pipeline.stages.encode import encode_shard, open_encoder
from pipeline.stages.finetune import finetune_run
from stylize import DiffStyle360
from tests.pipeline.conftest import CPU
from tests.pipeline.stages.test_clips import alter, fix_instance


@pytest.fixture(scope="session")
def with_autoencoder(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A stylizer as small as the tiny one, whose latents are those of an autoencoder."""
    config = DiffStyle360.from_pretrained(tiny_model).config
    folder = tmp_path_factory.mktemp("model") / "autoencoder"
    DiffStyle360(dataclasses.replace(config, vae_channels=(4, 4, 8))).save_pretrained(folder)
    return folder


@pytest.fixture
def encoded_run(copied_run: RunFolder, with_autoencoder: Path) -> RunFolder:
    folder = alter(copied_run, start=with_autoencoder, cache_latents=True)
    encoder = open_encoder(folder, CPU)
    for column in folder.run.encoded_columns:
        for shard in folder.run.shard_names("train"):
            encode_shard(encoder, column, shard)
    shutil.rmtree(folder.checkpoints)
    return folder


def test_latents_are_those_of_the_images(encoded_run: RunFolder, with_autoencoder: Path) -> None:
    assert encoded_run.run.latent_columns == ("latents-render", "latents-style-statue")
    model = DiffStyle360.from_pretrained(with_autoencoder)
    style = Column(encoded_run.column("style-statue"))
    latents = Column(encoded_run.column("latents-style-statue"))
    assert latents.keys == [key for key in style.keys if key.startswith("train")]
    key = latents.keys[1]
    with torch.no_grad():
        expected = model.encode(to_model(read_clip(style, key, range(4)), 32)).numpy()
    stored = read_clip(latents, key, range(4), "latent")
    assert stored.dtype == np.float16
    np.testing.assert_allclose(stored, expected, rtol=2e-3, atol=1e-3)
    assert latents.read(key, ["reference_00.latent"])["reference_00.latent.npy"].shape == (4, 8, 8)
    for column in encoded_run.run.latent_columns:
        assert verify_column(encoded_run.column(column), latents.keys) == []


@pytest.mark.parametrize(("augment", "fixed"), [(False, False), (False, True), (True, True)])
def test_clips_hold_latents_where_they_are_cached(
    encoded_run: RunFolder, augment: bool, fixed: bool
) -> None:
    folder = alter(encoded_run, augment=augment, realistic=0.5, plain=0.3)
    folder = fix_instance(folder) if fixed else folder
    live = Clips(folder, "train", ["statue"], 32).batch(range(4))
    cached = Clips(folder, "train", ["statue"], 32, cached=True).batch(range(4))
    images = {"style"} if augment else set()
    assert cached.encoded == {"front", "back", "style", "target"} - images
    assert cached.keys == live.keys
    assert torch.equal(cached.hint, live.hint)
    assert folder.run.finetune is not None
    model = DiffStyle360.from_pretrained(str(folder.run.finetune.start))
    for name in cached.encoded:
        pixels = getattr(live, name)
        with torch.no_grad():
            expected = model.encode(pixels.flatten(0, -4)).view_as(getattr(cached, name))
        torch.testing.assert_close(getattr(cached, name), expected, rtol=2e-3, atol=2e-3)
    if augment:
        assert torch.equal(cached.style, live.style)


def test_training_on_latents_is_nearly_training_on_images(encoded_run: RunFolder) -> None:
    losses = []
    for cache in (True, False):
        folder = alter(encoded_run, cache_latents=cache)
        finetune_run(folder)
        losses.append(np.genfromtxt(folder.checkpoints / "loss.csv", delimiter=",")[1:, 1])
        shutil.rmtree(folder.checkpoints)
    np.testing.assert_allclose(*losses, rtol=1e-2)


def test_latents_of_another_codec_are_refused(encoded_run: RunFolder, tmp_path: Path) -> None:
    assert encoded_run.run.finetune is not None
    model = DiffStyle360.from_pretrained(str(encoded_run.run.finetune.start))
    assert model.vae is not None
    with torch.no_grad():
        model.vae.encoder.conv_in.weight[0, 0, 0, 0] += 1
    model.save_pretrained(tmp_path / "other")
    with pytest.raises(PipelineError, match=r"latents-render.*another codec") as caught:
        finetune_run(alter(encoded_run, start=tmp_path / "other"))
    assert "\n" not in str(caught.value)


def test_missing_latents_are_named(encoded_run: RunFolder) -> None:
    (encoded_run.column("latents-style-statue") / "train-00001.parquet").unlink()
    with pytest.raises(Exception, match=r"latents-style-statue/train-00001\.parquet: missing"):
        finetune_run(encoded_run)


def test_an_unreadable_identity_is_a_failed_row(encoded_run: RunFolder) -> None:
    tar = encoded_run.column("render") / "train-00000.tar"
    damaged = bytearray(tar.read_bytes())
    damaged[600] ^= 1
    tar.write_bytes(damaged)
    encode_shard(open_encoder(encoded_run, CPU), "render", "train-00000")
    assert Column(encoded_run.column("latents-render"), ["train-00000"]).keys == ["train-00000001"]


def test_failed_latents_count_as_failed(
    encoded_run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    tar = encoded_run.column("render") / "train-00000.tar"
    whole = tar.read_bytes()
    tar.write_bytes(whole[:600] + bytes([whole[600] ^ 1]) + whole[601:])
    encode_shard(open_encoder(encoded_run, CPU), "render", "train-00000")
    tar.write_bytes(whole)
    monkeypatch.setattr("pipeline.cli.open_folder", lambda manifest, out: encoded_run)
    done = CliRunner().invoke(cli, ["verify", "run.yaml"])
    assert done.exit_code == 1, done.output
    assert "latents-render: 1 of 3 samples failed" in done.output


def test_the_verb_makes_what_is_missing(
    encoded_run: RunFolder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    column = encoded_run.column("latents-render")
    before = {path.name: path.read_bytes() for path in column.glob("*.tar")}
    (column / "train-00001.parquet").unlink()
    shutil.rmtree(encoded_run.column("latents-style-statue"))
    monkeypatch.setattr("pipeline.cli.open_run", lambda manifest, out: encoded_run)
    done = CliRunner().invoke(cli, ["encode", "run.yaml", "--column", "render", "--device", "cpu"])
    assert done.exit_code == 0, done.output
    assert {path.name: path.read_bytes() for path in column.glob("*.tar")} == before
    assert not encoded_run.column("latents-style-statue").exists()


def test_what_cannot_be_encoded_is_said(
    made_run: RunFolder, tiny_model: Path, with_autoencoder: Path
) -> None:
    with pytest.raises(PipelineError, match=r"no finetune\.cache_latents"):
        open_encoder(made_run, CPU)
    with pytest.raises(PipelineError, match="blocks of pixels; leave it out"):
        open_encoder(alter(made_run, start=tiny_model, cache_latents=True), CPU)
    folder = alter(made_run, start=with_autoencoder, cache_latents=True)
    with pytest.raises(PipelineError, match="no column 'style-ink' to encode; there: render"):
        encode_shard(open_encoder(folder, CPU), "style-ink", "train-00000")
