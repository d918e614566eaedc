"""What a run will take, by a tiny one that was made; its benchmarks are written here."""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests import RunManifest
from pipeline import devices
from pipeline.errors import PipelineError
from pipeline.folders import RunFolder
from pipeline.rates import Device, measure_column, read_step_seconds
from pipeline.shards.writer import ShardWriter
from pipeline.stages.costs import FINETUNE_THREADS, Source, Stage
from pipeline.stages.plan import plan_run
from pipeline.stages.simulate import open_measured, open_sources, simulate_run
from tests.pipeline.made import ON_GPU, write_benchmark

Open = Callable[..., RunFolder]
Change = Callable[[dict[str, Any]], RunFolder]
ALL = "render, style-statue, finetune, stylized-statue, evaluate"
COLUMNS = "render", "style-statue", "stylized-statue"


def write_benchmarks(folder: RunFolder) -> None:
    """As Snakemake leaves them: each job took 10 s more than its samples."""
    for column in (*folder.run.columns, *folder.run.stylized_columns):
        rate = measure_column(folder, column)
        assert rate is not None
        stage, name = "render", column
        if column.startswith("stylized-"):
            stage, name = "stylize", column.removeprefix("stylized-")
        for path in folder.column(column).glob("*.parquet"):
            rows = 1 if column.startswith("stylized") or "train-00001" in path.name else 2
            rows = 1 if path.stem.startswith("test") else rows
            write_benchmark(folder, f"{stage}/{name}/{path.stem}", rows * rate.seconds + 10)
    write_benchmark(folder, "finetune", sum(read_step_seconds(folder)) + 10)
    write_benchmark(folder, "evaluate", 8.0)
    write_benchmark(folder, "verify", 4.0)


@pytest.fixture
def timed_run(copied_run: RunFolder) -> RunFolder:
    write_benchmarks(copied_run)
    return copied_run


@pytest.fixture
def variant(timed_run: RunFolder, tmp_path: Path) -> Change:
    """The timed run's manifest with some keys replaced, ``{"rig.views": 8}``; nothing is made."""

    def change(changes: dict[str, Any]) -> RunFolder:
        content = timed_run.run.model_dump(mode="json")
        for key, value in changes.items():
            *parents, last = key.split(".")
            section = content
            for parent in parents:
                section = section[parent]
            section[last] = value
        return RunFolder(RunManifest.model_validate(content), tmp_path / "variant")

    return change


def simulate(folder: RunFolder, *measured: RunFolder) -> dict[str, Stage]:
    sources = open_sources(folder, [other.path for other in measured])
    return {stage.name: stage for stage in simulate_run(folder, sources)}


def refusal(folder: RunFolder, *measured: RunFolder) -> str:
    with pytest.raises(PipelineError) as caught:
        simulate(folder, *measured)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_run_takes_what_it_took(timed_run: RunFolder) -> None:
    stages = simulate(timed_run)
    assert list(stages) == [*COLUMNS[:2], "finetune", "stylized-statue", "evaluate", "verify"]
    for name, samples, jobs in (*((c, 4, 3) for c in COLUMNS[:2]), (COLUMNS[2], 1, 1)):
        stage, rate = stages[name], measure_column(timed_run, name)
        files = [path for path in timed_run.column(name).iterdir() if path.name != "wids.json"]
        assert rate is not None
        assert (stage.samples, stage.views, stage.jobs) == (samples, 4 * samples, jobs)
        assert stage.files == len(files) + 2 * jobs  # and a log and a benchmark
        assert stage.bytes == pytest.approx(sum(path.stat().st_size for path in files))
        assert stage.seconds == pytest.approx(samples * rate.seconds + jobs * stage.overhead)
        assert stage.overhead == pytest.approx(10, abs=1)
        told = [f"{samples} samples, {rate.device.name}, {timed_run.path}", "s and ", " a view, "]
        assert all(text in stage.measured for text in told)
        assert "taken from" not in stage.measured
    steps = read_step_seconds(timed_run)
    assert stages["finetune"].seconds == pytest.approx(sum(steps) + 10, abs=0.01)
    assert stages["finetune"].bytes == sum(
        path.stat().st_size
        for folder in (timed_run.checkpoints, timed_run.path / "stylizer")
        for path in folder.rglob("*")
        if path.is_file() and path.name != "loss.csv" and "events" not in path.parts
    )
    assert (stages["finetune"].samples, stages["finetune"].views) == (2, 4)
    assert (stages["evaluate"].seconds, stages["verify"].seconds) == pytest.approx((8.0, 4.0))
    assert stages["evaluate"].bytes == timed_run.metrics_path.stat().st_size
    assert stages["verify"].samples == 4 + 4 + 1


def test_more_identities_take_as_much_more(timed_run: RunFolder, variant: Change) -> None:
    small = simulate(timed_run)
    large = variant({"identities": {"train": 6000, "test": 100}, "shards": {"identities": 50}})
    stages = simulate(large, timed_run)
    render = stages["render"]
    assert (render.samples, render.views, render.jobs) == (6100, 24_400, 122)
    assert render.bytes == pytest.approx(6100 / 4 * small["render"].bytes)
    rate = measure_column(timed_run, "render")
    assert rate is not None
    assert render.seconds == pytest.approx(6100 * rate.seconds + 122 * render.overhead)
    assert render.longest == pytest.approx(50 * rate.seconds + render.overhead)
    assert stages["stylized-statue"].samples == 100
    assert stages["evaluate"].seconds == pytest.approx(100 * small["evaluate"].seconds)
    assert stages["finetune"] == replace(
        small["finetune"], measured=stages["finetune"].measured
    )  # as many steps
    columns = [stages[name] for name in COLUMNS]
    before = sum(small[name].bytes for name in COLUMNS)
    assert stages["verify"].seconds == pytest.approx(4 * sum(c.bytes for c in columns) / before)


def test_a_billion_views_take_no_second(timed_run: RunFolder, variant: Change) -> None:
    huge = variant({"identities": {"train": 31_250_000, "test": 1}, "rig.views": 32})
    sources = open_sources(huge, [timed_run.path])
    began = time.perf_counter()
    stages = simulate_run(huge, sources)
    assert time.perf_counter() - began < 0.5
    assert stages[0].views == 32 * 31_250_001
    assert stages[0].jobs == 15_625_001


def test_other_numbers_of_views_and_steps_are_scaled_to_and_told(
    timed_run: RunFolder, variant: Change
) -> None:
    before = simulate(timed_run)
    more = simulate(variant({"rig.views": 8, "stylize.steps": 3}), timed_run)
    assert more["render"].bytes == pytest.approx(2 * before["render"].bytes)
    for name, times in (("render", 8 / 4), ("style-statue", 9 / 5), ("stylized-statue", 2 * 3 / 2)):
        stage, old = more[name], before[name]
        work, was = (s.seconds - s.jobs * s.overhead for s in (stage, old))
        assert work == pytest.approx(times * was)
        assert "taken from 4 views to 8, so at most this" in stage.measured
    assert "taken from 2 steps to 3, so at most this" in more["stylized-statue"].measured
    fewer = simulate(variant({"rig.views": 2}), timed_run)
    assert "taken from 4 views to 2, so at least this" in fewer["render"].measured
    assert fewer["evaluate"].seconds == pytest.approx(before["evaluate"].seconds / 2)


def test_longer_training_takes_more_steps_and_looks(timed_run: RunFolder, variant: Change) -> None:
    mean = sum(read_step_seconds(timed_run)) / 2
    longer = simulate(variant({"finetune.steps": 100}), timed_run)["finetune"]
    assert longer.seconds == pytest.approx(100 * mean + 50 * 10, rel=1e-3)  # 100 checkpoints for 2
    looks = {"every": 10, "clips": 1, "split": "test", "styles": [], "sample_every": None}
    changes = {"finetune.steps": 100, "finetune.checkpoint_every": 50, "finetune.validation": looks}
    seldom = simulate(variant(changes), timed_run)["finetune"]
    assert seldom.seconds == pytest.approx(100 * mean + (2 + 10 + 1) / 2 * 10, rel=1e-3)


@pytest.mark.parametrize(
    ("changes", "stages", "reason"),
    [
        ({"outputs.resolution": 64}, ALL, "outputs.resolution 32, and here it is 64"),
        ({"outputs.rgb": "webp"}, ALL, "outputs.rgb png, and here it is webp"),
        ({"generator.source": "demo"}, "render", "source procedural, and here it is demo"),
        ({"generator.precision": "fast"}, "render, style-statue", "precision exact, and here it"),
        ({"styles.statue.source": "procedural:joker"}, "style-statue", "source procedural:statue"),
        ({"styles.more": {"source": "procedural:joker"}}, "style-more", "has no such stage"),
        ({"finetune.batch": 2}, "finetune", "finetune.batch 1, and here it is 2"),
        ({"finetune.gradient_checkpointing": True}, "finetune", "gradient_checkpointing False"),
        ({"finetune.losses.style": 0.1}, "finetune", "finetune.losses.style 0.0, and here it"),
        ({"finetune.start": None}, ALL.partition("statue, ")[2], "the stylizer's image_size 32"),
        ({"stylize.precision": "fast"}, "stylized-statue", "stylize.precision exact"),
        ({"stylize.style_guidance": 3.0}, "stylized-statue", "stylize.style_guidance 1.0"),
        ({"stylize.hint": "camera"}, "stylized-statue", "stylize.hint content"),
        ({"stylize.presence": 0.0}, "stylized-statue", "stylize.presence True, and here it is F"),
        ({"stylize.references.more": {"style": "statue"}}, "stylized-more", "has no such stage"),
    ],
)  # fmt: skip
def test_a_rate_of_other_settings_is_refused(
    timed_run: RunFolder, variant: Change, changes: dict[str, Any], stages: str, reason: str
) -> None:
    told = refusal(variant(changes), timed_run)
    assert f"of {stages}: " in told
    assert f"{timed_run.path} has " in told
    assert reason in told
    assert told.endswith("give its folder: --measured RUNS/NAME-HASH")


@pytest.mark.parametrize(
    "changes", [{"stylize.temperature": 2.0}, {"seed": 7}, {"stylize.presence": 0.5}]
)
def test_what_costs_nothing_matters_to_no_rate(
    timed_run: RunFolder, variant: Change, changes: dict[str, Any]
) -> None:
    assert len(simulate(variant(changes), timed_run)) == 6


def test_a_stage_that_was_not_timed_is_refused(made_run: RunFolder) -> None:
    """By hand, without Snakemake, nothing says how long evaluating and verifying took."""
    told = refusal(made_run)
    assert "no measurement of evaluate: " in told
    assert "was not evaluated by Snakemake" in told
    assert "render" not in told.split(";")[0].replace(str(made_run.path), "")


def test_jobs_without_benchmarks_say_so(timed_run: RunFolder) -> None:
    for name in ("render/render", "finetune.tsv"):
        path = timed_run.path / "benchmarks" / name
        for file in path.glob("*.tsv") if path.is_dir() else [path]:
            file.unlink()
    stages = simulate(timed_run)
    assert stages["render"].overhead == 0
    for name in ("render", "finetune"):
        assert "start-up of jobs not measured (no benchmarks)" in stages[name].measured
    write_benchmark(timed_run, "finetune", 0.001)  # of a process that only went on at the end
    assert "not measured" in simulate(timed_run)["finetune"].measured
    (timed_run.path / "benchmarks" / "verify.tsv").unlink()
    assert "no measurement of verify: " in refusal(timed_run)


def test_what_is_not_made_is_refused(timed_run: RunFolder, open_variant: Open) -> None:
    folder = open_variant({"seed": 5})
    told = refusal(folder)
    assert told.startswith(f"{folder.path}: nothing of this run is made yet; make a small run of")
    for path in timed_run.column("stylized-statue").glob("*.parquet"):
        path.unlink()
    assert "no measurement of stylized-statue: " in refusal(timed_run)
    assert "has no committed sample of it" in refusal(timed_run)
    for path in timed_run.checkpoints.glob("checkpoint-*/*"):
        path.unlink()
    for path in timed_run.checkpoints.glob("checkpoint-*"):
        path.rmdir()
    assert "finetune: " in refusal(timed_run)
    assert "has no step and checkpoint of it" in refusal(timed_run)


def test_what_one_run_lacks_another_may_have(timed_run: RunFolder, open_variant: Open) -> None:
    """The given runs come first, in their order, then the run's own folder."""
    rendered = open_variant({"seed": 9, "finetune": None, "stylize": None})
    plan_run(rendered)
    column = rendered.column("render")
    with ShardWriter(column, "train-00000", ON_GPU) as shard:
        shard.add("a", {"json": b"{}"}, seed=1, split="train", seconds=1.5)
    stages = simulate(timed_run, rendered)
    assert stages["render"].device.name == "A GPU"
    assert stages["render"].seconds == 4 * 1.5
    assert stages["style-statue"].device.kind == "cpu"
    assert str(timed_run.path) in stages["style-statue"].measured
    assert simulate(timed_run, timed_run) == simulate(timed_run)  # its own folder, named


def test_latents_are_one_stage(open_variant: Open, tiny_model: Path) -> None:
    wanted = {"steps": 2, "views": 2, "start": str(tiny_model), "cache_latents": True}
    folder = open_variant({"finetune": wanted, "stylize": None})
    plan_run(folder)
    for number, name in enumerate((*folder.run.columns, *folder.run.latent_columns)):
        with ShardWriter(folder.column(name), "train-00000", ON_GPU) as shard:
            shard.add("a", {"json": b"{}"}, seed=1, split="train", seconds=1.0 + number)
        if name.startswith("latents-"):
            write_benchmark(folder, f"encode/{name.removeprefix('latents-')}/train-00000", 9.0)
    folder.checkpoints.mkdir()
    (folder.checkpoints / "loss.csv").write_text("step,seconds\n0,2.0\n1,4.0\n")
    (folder.checkpoints / "checkpoint-000002").mkdir()
    (folder.checkpoints / "checkpoint-000002" / "state.json").write_text("{}")
    write_benchmark(folder, "verify", 1.0)
    stages = simulate(folder)
    assert list(stages) == ["render", "style-statue", "encode", "finetune", "verify"]
    encode = stages["encode"]
    assert (encode.samples, encode.jobs, encode.files) == (2 * 3, 2 * 2, 2 * 2 * 5)
    assert encode.seconds == pytest.approx(3 * (3 + 4) + 2 * (6 + 5))
    assert encode.longest == pytest.approx(2 * 4 + 5)
    assert encode.measured.startswith("latents-render: ")
    assert "; latents-style-statue: " in encode.measured
    assert stages["finetune"].device == Device("cuda", "A GPU", 4)
    assert stages["finetune"].seconds == 2 * 3.0


def test_the_folder_says_what_was_measured(timed_run: RunFolder, tmp_path: Path) -> None:
    assert open_measured(timed_run.path).run == timed_run.run
    with pytest.raises(PipelineError, match=r"none: no such folder"):
        open_measured(tmp_path / "none")
    told = timed_run.path / "manifest.json"
    content = json.loads(told.read_text())
    for text, message in (
        ("{", r"manifest.json: not JSON; run `diffstyle360 plan` with the manifest that made it"),
        (json.dumps(content | {"sed": 1}), r"manifest.json: sed: Extra inputs are not permitted"),
        ("[]", r"manifest.json: : Input should be"),
    ):
        told.write_text(text)
        with pytest.raises(PipelineError, match=message):
            open_measured(timed_run.path)
    told.unlink()
    with pytest.raises(PipelineError, match=r"manifest.json: not there, so nothing says what"):
        open_measured(timed_run.path)
    plan_run(timed_run)
    assert open_measured(timed_run.path).run == timed_run.run


def test_a_stylizer_that_was_moved_is_known_by_what_became_of_it(
    timed_run: RunFolder, tmp_path: Path
) -> None:
    content = json.loads((timed_run.path / "manifest.json").read_text())
    content["finetune"]["start"] = str(tmp_path / "gone")
    (timed_run.path / "manifest.json").write_text(json.dumps(content))
    moved = RunFolder(timed_run.run, tmp_path / "elsewhere")
    assert len(simulate(moved, timed_run)) == 6


@given(
    st.integers(1, 500), st.integers(1, 600), st.floats(1, 1e4), st.floats(0.01, 1)
)  # fmt: skip
def test_wall_time_lies_between_its_bounds(
    jobs: int, devices: int, longest: float, share: float
) -> None:
    seconds = longest * (1 + (jobs - 1) * share)  # one full job, the others so full
    stage = stage_of(jobs=jobs, seconds=seconds, longest=longest)
    wall = stage.wall_seconds(devices)
    assert max(longest, seconds / devices) <= wall * (1 + 1e-9)
    assert wall <= seconds * (1 + 1e-9)
    assert stage.wall_seconds(1) == pytest.approx(seconds)
    assert wall >= stage.wall_seconds(devices + 1) * (1 - 1e-9)
    if share == 1:
        assert wall == pytest.approx(-(-jobs // devices) * longest)


def stage_of(jobs: int, seconds: float, longest: float) -> Stage:
    return Stage("render", 1, 1, jobs, 5, 1.0, seconds, longest, 0.0, Device("cpu", "", 1), "")


def test_a_core_counts_as_devices_have_it() -> None:
    assert FINETUNE_THREADS == devices.FINETUNE_THREADS
    assert devices.EVALUATE_THREADS == 1


def test_a_source_without_shards_is_told(timed_run: RunFolder) -> None:
    with pytest.raises(PipelineError, match=r"finetune: .* has no shard, which would say the dev"):
        simulate_run(timed_run, [Source(timed_run, {})])
