"""Rates of what was made, bounds of what was not, and the disk that both are held against."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import eg3d_renderer as er
from manifests import RunManifest
from pipeline import estimates
from pipeline.console import show_bytes
from pipeline.errors import PipelineError
from pipeline.estimates import Rate, Sizes, estimate_bytes, measure_column
from pipeline.folders import RunFolder
from pipeline.shards import ShardError, codecs
from pipeline.shards.records import read_records
from pipeline.shards.writer import ShardWriter
from pipeline.stages.encode import encode_shard, open_encoder
from pipeline.stages.plan import plan_run
from pipeline.stages.render import _sizes, render_shard
from stylize import DiffStyle360, FinetuneSettings, StylizerConfig, demo
from tests.pipeline.conftest import CPU
from tests.shipped import needs_demo_weights

Open = Callable[..., RunFolder]
ON_CPU = {"device": "cpu", "device_name": "A CPU", "threads": 1}
ON_GPU = {"device": "cuda", "device_name": "A GPU", "threads": 4}


def write_shard(folder: RunFolder, name: str, made_by: dict[str, Any], seconds: list[float]) -> int:
    """A shard of tiny samples that took so long; its bytes with index and Parquet."""
    column = folder.column("render")
    with ShardWriter(column, name, made_by) as shard:
        for number, took in enumerate(seconds):
            members = {"json": b"{}"}
            shard.add(f"{name}-{number}", members, seed=1, split="train", seconds=took)
        shard.fail(f"{name}-bad", "non_finite", "a NaN", seed=1, split="train")
    return sum(path.stat().st_size for path in column.glob(f"{name}.*"))


def rate_of(folder: RunFolder) -> Rate:
    rate = measure_column(folder, "render")
    assert rate is not None
    return rate


def write_benchmark(folder: RunFolder, name: str, seconds: object) -> Path:
    path = folder.path / "benchmarks" / f"{name}.tsv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"s\th:m:s\tmax_rss\n{seconds}\t0:00:01\t12.5\n")
    return path


def bytes_in(folder: RunFolder, column: str, shard: str = "*") -> int:
    paths = [*folder.column(column).glob(f"{shard}.*")]
    return sum(path.stat().st_size for path in paths if path.name != "wids.json")


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets what is free on every disk."""

    def set_free(free: float) -> None:
        monkeypatch.setattr(estimates, "free_bytes", lambda path: int(free))

    return set_free


def test_a_rate_is_the_mean_of_a_columns_samples(copied_run: RunFolder) -> None:
    seconds: list[float] = []
    for path in sorted(copied_run.column("render").glob("*.parquet")):
        seconds += read_records(path)[0]["seconds"].to_pylist()
        write_benchmark(copied_run, f"render/render/{path.stem}", sum(seconds[-2:]) + 7)
    rate = rate_of(copied_run)
    assert rate.samples == len(seconds) == 4
    assert rate.seconds == pytest.approx(sum(seconds) / 4)
    assert rate.bytes == pytest.approx(bytes_in(copied_run, "render") / 4)
    assert rate.overhead is not None
    assert rate.overhead >= 7 * (1 - 1e-9)
    assert (rate.device.kind, rate.device.threads, rate.device.units) == ("cpu", 1, 1)
    assert rate.device.name


def test_failed_samples_are_none(open_variant: Open) -> None:
    folder = open_variant()
    size = write_shard(folder, "train-00000", ON_GPU, [1.0, 3.0])
    size += write_shard(folder, "train-00001", ON_GPU, [])  # all failed: it says nothing
    write_benchmark(folder, "render/render/train-00000", 10.0)
    rate = rate_of(folder)
    assert (rate.samples, rate.seconds, rate.overhead) == (2, 2.0, 6.0)
    assert 2 * rate.bytes < size
    assert rate.device.units == 1  # of one GPU, whatever threads serve it
    write_benchmark(folder, "render/render/train-00000", 1.0)  # it went on after a killed one
    rate = rate_of(folder)
    assert rate.overhead == 0


def test_the_device_that_made_most_counts(open_variant: Open) -> None:
    folder = open_variant()
    write_shard(folder, "train-00000", ON_CPU, [100.0])
    write_shard(folder, "train-00001", ON_GPU, [1.0, 1.0])
    rate = rate_of(folder)
    assert (rate.device.name, rate.samples, rate.seconds) == ("A GPU", 2, 1.0)


def test_few_of_many_shards_are_read(open_variant: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = open_variant()
    for number in range(7):
        write_shard(folder, f"train-{number:05d}", ON_CPU, [float(number)])
    read = []
    monkeypatch.setattr(estimates, "SAMPLED", 3)
    monkeypatch.setattr(
        estimates,
        "read_records",
        lambda path, names: read.append(path) or read_records(path, names),
    )
    rate = rate_of(folder)
    assert [path.stem for path in read] == ["train-00000", "train-00002", "train-00004"]
    assert (rate.samples, rate.seconds) == (3, 2.0)


def test_nothing_committed_is_no_rate(open_variant: Open) -> None:
    folder = open_variant()
    assert measure_column(folder, "render") is None
    folder.column("render").mkdir(parents=True)
    (folder.column("render") / "train-00000.tar").write_bytes(b"not committed")
    (folder.column("render") / ".train-00000.parquet.here.1.tmp").write_bytes(b"nor this")
    assert measure_column(folder, "render") is None


def test_damage_is_one_line(open_variant: Open) -> None:
    folder = open_variant()
    write_shard(folder, "train-00000", {}, [1.0])
    with pytest.raises(PipelineError, match=r"train-00000.parquet: does not say its device; make"):
        measure_column(folder, "render")
    (folder.column("render") / "train-00000.parquet").write_bytes(b"PAR1")
    with pytest.raises(ShardError, match=r"train-00000.parquet: not readable as Parquet"):
        measure_column(folder, "render")


@pytest.mark.parametrize("content", ["", "s\th:m:s\n", "seconds\n1.0\n", "s\nsoon\n", "s\n\n"])
def test_what_is_no_benchmark_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "verify.tsv"
    assert estimates.read_benchmark(path) is None
    path.write_text(content)
    with pytest.raises(PipelineError, match=r"verify.tsv: not a benchmark of Snakemake's; remove"):
        estimates.read_benchmark(path)


def test_steps_of_a_fine_tune(copied_run: RunFolder, open_variant: Open) -> None:
    assert estimates.read_step_seconds(open_variant()) == []
    path = copied_run.checkpoints / "loss.csv"
    times = estimates.read_step_seconds(copied_run)
    assert len(times) == 2
    assert all(seconds > 0 for seconds in times)
    whole = path.read_text()
    path.write_text(whole + "2,0.5,0.5")  # killed while it wrote
    assert estimates.read_step_seconds(copied_run) == times
    path.write_text(whole.replace("\n1,", "\nfoo\n1,", 1))
    with pytest.raises(PipelineError, match=r"loss.csv: row 3 has no seconds"):
        estimates.read_step_seconds(copied_run)
    path.write_text("step,loss\n0,0.5\n")
    with pytest.raises(PipelineError, match=r"loss.csv: row 2 has no seconds"):
        estimates.read_step_seconds(copied_run)


def test_a_whole_run_needs_nothing_more(made_run: RunFolder) -> None:
    needs = estimate_bytes(made_run)
    assert [need.name for need in needs] == ["render", "style-statue", "stylized-statue"]
    assert all(need.bytes == 0 and need.measured for need in needs)
    assert estimates.check_space(made_run) is None


def test_a_bound_holds_what_is_then_written(made_run: RunFolder, tmp_path: Path) -> None:
    needs = {need.name: need for need in estimate_bytes(RunFolder(made_run.run, tmp_path / "none"))}
    checkpoints = estimates.measure_checkpoints(made_run)
    assert checkpoints is not None
    sizes = {
        name: bytes_in(made_run, name) for name in ("render", "style-statue", "stylized-statue")
    }
    sizes |= {"finetune": 2 * checkpoints[0] + checkpoints[1]}
    sizes |= {"evaluate": made_run.metrics_path.stat().st_size}
    assert list(needs) == list(sizes)
    for name, size in sizes.items():
        assert not needs[name].measured
        assert needs[name].bytes >= size, name
    assert needs["render"].bytes < 4 * sizes["render"] + 100_000


def test_what_is_missing_is_measured_on_what_is_there(copied_run: RunFolder) -> None:
    size = bytes_in(copied_run, "render", "train-00000")
    for path in copied_run.column("render").glob("train-00000.*"):
        path.unlink()
    render, style, stylized = estimate_bytes(copied_run)
    assert render.measured
    assert 0.6 * size < render.bytes < 1.8 * size
    assert style.bytes == stylized.bytes == 0


def test_a_shard_that_is_not_of_the_run_counts_for_nothing(open_variant: Open) -> None:
    folder = open_variant()
    for name in ("train-00000", "train-00009", "other-00000", "odd"):
        write_shard(folder, name, ON_CPU, [1.0])
    needs = {need.name: need for need in estimate_bytes(folder)}
    rate = rate_of(folder)
    assert needs["render"].bytes == pytest.approx(2 * rate.bytes)  # of 4 identities, 2 are made


def test_checkpoints_are_measured_once_there_is_one(copied_run: RunFolder) -> None:
    shutil.rmtree(copied_run.path / "stylizer")
    *_, finetune = estimate_bytes(copied_run)
    assert finetune.measured
    assert finetune.bytes == estimates.bound_checkpoint(copied_run.run)[1]  # the model alone
    shutil.rmtree(copied_run.checkpoints)
    *_, finetune = estimate_bytes(copied_run)
    assert not finetune.measured
    assert finetune.bytes > 2 * estimates.bound_checkpoint(copied_run.run)[0]


def test_a_bound_that_does_not_fit_is_told(open_variant: Open, limit: Callable) -> None:
    folder = open_variant()
    needed = sum(need.bytes for need in estimate_bytes(folder))
    limit(needed)
    assert estimates.check_space(folder) is None
    limit(needed - 1)
    told = estimates.check_space(folder)
    assert told is not None
    assert told.startswith(f"{folder.path}: {show_bytes(needed)} free, and this run may need up to")
    assert all(name in told for name in ("finetune", "render", "style-statue", "stylized-statue"))
    assert "choose another disk by --out" in told
    assert "\n" not in told


def test_what_is_bound_refuses_nothing(copied_run: RunFolder, limit: Callable) -> None:
    """Only what was measured can refuse: here a shard, while the other column is a bound."""
    shutil.rmtree(copied_run.column("style-statue"))
    for path in copied_run.column("render").glob("train-00000.*"):
        path.unlink()
    measured = next(need.bytes for need in estimate_bytes(copied_run) if need.name == "render")
    limit(measured)
    told = estimates.check_space(copied_run)
    assert told is not None
    assert "may need up to" in told
    limit(measured - 1)
    with pytest.raises(PipelineError, match=r"free, and this run needs another .*: render"):
        estimates.check_space(copied_run)


def test_many_stages_are_told_by_their_largest(open_variant: Open, limit: Callable) -> None:
    names = [f"s{number}" for number in range(9)]
    folder = open_variant({
        "styles": {name: {"source": "procedural:statue"} for name in names},
        "stylize.references": {name: {"style": name} for name in names},
    })  # fmt: skip
    limit(1)
    told = estimates.check_space(folder)
    assert told is not None
    assert "15 more" in told  # of 10 rendered, 9 stylized, finetune and evaluate
    assert len(told) < 500


def test_free_space_is_that_of_a_folder_yet_to_be_made(tmp_path: Path) -> None:
    free = estimates.free_bytes(tmp_path / "runs" / "none-yet")
    assert free == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.05)
    assert free > 0


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
        assert len(data) <= estimates.bound_image(channels * size**2)


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
        bound = estimates.bound_sample(folder.run, column)
        render_shard(folder, column, "train-00001", CPU)  # of one identity
        assert bytes_in(folder, column) <= bound + estimates.SHARD_ENDS
        assert bound < 8 * bytes_in(folder, column) + 40_000


def test_a_bound_holds_for_latents(open_variant: Open, vae_model: Path) -> None:
    wanted = {"steps": 1, "views": 2, "start": str(vae_model), "cache_latents": True}
    folder = open_variant({"finetune": wanted})
    plan_run(folder)
    for column in ("render", "style-statue"):
        render_shard(folder, column, "train-00001", CPU)
        encode_shard(open_encoder(folder, CPU), column, "train-00001")
        bound = estimates.bound_sample(folder.run, f"latents-{column}")
        assert bytes_in(folder, f"latents-{column}") <= bound + estimates.SHARD_ENDS
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
    checkpoint, model = estimates.bound_checkpoint(run)
    bytes_of_all = 16 * sum(p.numel() for p in trained.values())
    assert bytes_of_all <= checkpoint - 1_000_000 < 1.01 * bytes_of_all  # a few buffers
    assert model > (vae_model / "model.safetensors").stat().st_size
    assert FinetuneSettings(steps=1).checkpoints_kept == estimates.CHECKPOINTS_KEPT


def test_a_fine_tune_from_nothing_has_the_sizes_of_the_one_in_the_package() -> None:
    preset, shipped = json.loads(demo().to_json()), estimates.stylizer_config(None)
    for key in ("image_size", "latent_factor", "vae_channels", "channels", "style_encoder"):
        assert shipped[key] == preset[key]


def test_a_damaged_stylizer_is_one_line(open_variant: Open, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_text("{}")
    run = open_variant({"stylize.model": str(folder), "finetune": None}).run
    with pytest.raises(PipelineError, match=r"model/config.json: has no image_size; is it"):
        estimates.bound_sample(run, "stylized-statue")
    (folder / "config.json").write_text("{")
    with pytest.raises(PipelineError, match=r"model/config.json: cannot read it"):
        estimates.bound_sample(run, "stylized-statue")
    run = open_variant({"finetune": {"steps": 1, "views": 2, "start": str(folder)}}).run
    with pytest.raises(PipelineError, match=r"model.safetensors: not a readable safetensors file"):
        estimates.bound_checkpoint(run)


@needs_demo_weights
@pytest.mark.parametrize("source", ["procedural", "demo"])
@pytest.mark.parametrize("outputs", [{}, {"resolution": 32}])
def test_sizes_are_the_generators_own(source: str, outputs: dict[str, int]) -> None:
    run = rendering(source, outputs)
    assert estimates.find_sizes(run) == Sizes(*_sizes(run.outputs, er.load_generator(source)))


def test_sizes_of_checkpoints(tiny_panohead: Path, tmp_path: Path) -> None:
    from eg3d_renderer.checkpoints import read_official, save_checkpoint

    save_checkpoint(read_official(tiny_panohead), tmp_path / "tiny")
    generator = er.load_generator(tmp_path / "tiny")
    for outputs in ({}, {"resolution": 64, "neural_rendering_resolution": 16}):
        for source in (tmp_path / "tiny", tmp_path / "tiny" / "model.safetensors"):
            run = rendering(str(source), outputs)
            assert estimates.find_sizes(run) == Sizes(*_sizes(run.outputs, generator))
    assert estimates.find_sizes(rendering(str(tiny_panohead), {})) == Sizes(512, 128)
    (tmp_path / "tiny" / "config.json").write_text("[]")
    with pytest.raises(PipelineError, match=r"config.json: has no neural_rendering_resolution"):
        estimates.find_sizes(rendering(str(tmp_path / "tiny"), {}))


def rendering(source: str, outputs: dict[str, int]) -> RunManifest:
    content = {
        "name": "sized", "seed": 0, "generator": {"source": source}, "identities": {"train": 1},
        "rig": {"views": 2}, "outputs": outputs,
    }  # fmt: skip
    return RunManifest.model_validate(content)
