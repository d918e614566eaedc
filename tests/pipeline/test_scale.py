"""`diffstyle360 simulate`: the table, the JSON, the money, and what it advises."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from manifests import RunManifest, load_run
from pipeline import space
from pipeline.errors import PipelineError
from pipeline.folders import RunFolder, open_run
from pipeline.rates import Device
from pipeline.scale import advise, as_table, resize_run, simulate, tell
from pipeline.shards.writer import ShardWriter
from pipeline.stages.costs import Stage
from pipeline.stages.plan import plan_run

Write = Callable[..., Path]
CHANGES = {"finetune": None, "stylize": None, "styles": None}
GPU, CORES = Device("cuda", "A GPU", 4), Device("cpu", "A CPU", 2)


def call(*arguments: object) -> Result:
    result = CliRunner().invoke(simulate, [str(a) for a in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
def made_on_gpu(write_manifest: Write, tmp_path: Path) -> Path:
    """The manifest of a run of one column, two samples of 4 views in, which took 2 s each."""
    path = write_manifest(CHANGES)
    folder = open_run(path, tmp_path / "runs")
    plan_run(folder)
    write_shard(folder, 2.0)
    for name, seconds in (("render/render/train-00000", 14.0), ("verify", 3.0)):
        file = folder.path / "benchmarks" / f"{name}.tsv"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"s\th:m:s\n{seconds}\t0:00:01\n")
    return path


def write_shard(folder: RunFolder, seconds: float) -> None:
    made_by = {"device": "cuda", "device_name": "A GPU", "threads": 4}
    with ShardWriter(folder.column("render"), "train-00000", made_by) as shard:
        for key in ("a", "b"):
            shard.add(key, {"json": b"{}"}, seed=1, split="train", seconds=seconds)


def sized(
    identities: dict[str, int | str], size: int = 64, styles: tuple[str, ...] = ()
) -> RunManifest:
    content: dict[str, Any] = {
        "name": "sized", "seed": 0, "generator": {"source": "procedural"}, "rig": {"views": 2},
        "identities": identities, "shards": {"identities": size},
        "styles": {name: {"source": "procedural:statue"} for name in styles},
    }  # fmt: skip
    return RunManifest.model_validate(content)


def stage(
    name: str = "render",
    jobs: int = 10,
    longest: float = 1800.0,
    device: Device = GPU,
    in_shards: bool = True,
    overhead: float = 0.0,
) -> Stage:
    seconds = jobs * longest
    return Stage(
        name, 100, 200, jobs, 5 * jobs, 1e9, seconds, longest, overhead, device, "on x", in_shards
    )


def test_a_run_is_told_stage_by_stage(made_on_gpu: Path, tmp_path: Path) -> None:
    shown = call(made_on_gpu, "--out", tmp_path / "runs", "--price", "3.6", "--gpus", "2").stdout
    lines = shown.splitlines()
    assert lines[0] == "tiny: identities train 3, test 1; 4 views of each; at once: 2"
    assert lines[1].split() == [
        "stage", "samples", "views", "jobs", "files", "size", "hours", "wall", "h", "cost",
    ]  # fmt: skip
    render, verify, total = (line.split() for line in lines[2:5])
    assert render[:5] == ["render", "4", "16", "3", "15"]
    assert render[-4:] == ["0.01", "gpu", "0.01", "0.04"]  # 4 x 2 s + 3 x 10 s = 38 s
    assert verify[0] == "verify"
    assert verify[-1] == "-"
    assert total[:5] == ["sum", "4", "16", "4", str(15 + 4)]
    assert total[-1] == "0.04"
    assert "free where it goes" in lines[5]
    assert lines[7] == "measured:"
    assert lines[8].startswith("  render: 0.5 s and ")
    assert ", 10 s more a job; 2 samples, A GPU, " in lines[8]


def test_json_has_the_figures_in_units(made_on_gpu: Path, tmp_path: Path) -> None:
    arguments = (made_on_gpu, "--out", tmp_path / "runs", "--json", "--price", "3.6")
    told = json.loads(call(*arguments, "--identities", "300").stdout)
    render, verify = told["stages"]
    assert told["identities"] == {"train": 300, "test": 1}
    assert (render["samples"], render["jobs"], render["device"]) == (301, 151, "gpu")
    assert render["seconds"] == pytest.approx(301 * 2 + 151 * 10)
    assert render["wall_seconds"] == pytest.approx(render["seconds"])
    assert render["job_seconds"] == pytest.approx(2 * 2 + 10)
    assert render["cost"] == pytest.approx(render["seconds"] / 1000)
    assert (verify["device"], verify["cost"]) == ("core", None)
    total = told["sum"]
    assert total["gpu_seconds"] == pytest.approx(render["seconds"])
    assert total["core_seconds"] == pytest.approx(verify["seconds"])
    assert total["bytes"] == render["bytes"] + verify["bytes"]
    assert total["wall_seconds"] == pytest.approx(render["seconds"] + verify["seconds"])
    assert total["cost"] == render["cost"]
    assert told["free_bytes"] > 0
    quick = json.loads(call(*arguments, "--identities", "300", "--gpus", "8").stdout)
    assert quick["sum"]["cost"] == pytest.approx(total["cost"])
    assert quick["stages"][0]["wall_seconds"] < render["wall_seconds"] / 7


def test_another_run_is_measured_on(
    made_on_gpu: Path, write_manifest: Write, tmp_path: Path
) -> None:
    small = open_run(made_on_gpu, tmp_path / "runs").path
    other = write_manifest(CHANGES | {"seed": 2, "identities": {"train": 50}}, "other.yaml")
    with pytest.raises(PipelineError, match="nothing of this run is made yet"):
        call(other, "--out", tmp_path / "runs")
    shown = call(other, "--out", tmp_path / "runs", "--measured", small).stdout
    assert f"2 samples, A GPU, {small}" in shown
    assert not open_run(other, tmp_path / "runs").path.exists()  # nothing is made


def test_a_disk_that_is_too_small_is_told(
    made_on_gpu: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = (made_on_gpu, "--out", tmp_path / "runs")
    assert "choose another disk" not in call(*arguments).stderr
    monkeypatch.setattr(space, "free_bytes", lambda path: 1000)
    assert "1 kB are free there: choose another disk by --out" in call(*arguments).stderr


def test_hours_of_a_cpu_are_of_its_cores_and_cost_nothing() -> None:
    stages = [stage("render", device=CORES), stage("style-a")]
    told = tell(sized({"train": 640}, styles=("a",)), stages, 5, 2.0)
    render, style = told["stages"]
    assert (render["seconds"], style["seconds"]) == (2 * 18_000, 18_000)
    assert render["wall_seconds"] == style["wall_seconds"] == 3600
    assert (render["cost"], style["cost"]) == (None, 10.0)
    assert told["sum"]["samples"] == 200
    lines = as_table(told).splitlines()
    assert len({len(line) for line in lines}) == 1  # columns line up
    assert "5.00 gpu + 10.00 core" in lines[-1]
    assert tell(sized({"train": 640}), stages[:1], 5, 2.0)["sum"]["cost"] is None
    assert tell(sized({"train": 640}), stages[1:], 5, None)["sum"]["cost"] is None


def test_latents_and_clips_are_no_samples_of_the_sum() -> None:
    stages = [stage(), stage("encode"), stage("finetune", 1, in_shards=False)]
    told = tell(sized({"train": 640}), stages, 1, None)
    assert told["sum"]["samples"] == 100
    assert told["sum"]["jobs"] == 21


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"train": 3, "test": 10}, {"train": 7, "test": 10}),
        ({"a": 3, "b": "0-9"}, {"a": 3, "b": 7}),
    ],
)
def test_identities_are_those_of_the_train_split_or_the_largest(before: dict, after: dict) -> None:
    assert resize_run(sized(before), 7).identities == after


def test_a_run_of_good_shards_needs_no_advice() -> None:
    assert advise(sized({"train": 640}), [stage()]) == []


def test_too_many_jobs_are_cut_into_ranges(write_manifest: Write) -> None:
    run = sized({"train": 640_000, "test": 64}, styles=("a", "b"))
    stages = [stage(name, 10_001) for name in ("render", "style-a", "style-b")]
    [line] = advise(run, stages)
    assert line.startswith("30,005 jobs, and one invocation of Snakemake takes about 10,000")
    assert "in 7 ranges of shards, --config shards=0-1664, then shards=1665-3329, ..." in line
    assert 6 * 1665 + 5 <= 10_000  # three columns of two splits, and what is of the whole run
    two = advise(sized({"train": 64 * 9999}), [stage(jobs=9999)])
    assert two == [
        "10,001 jobs, and one invocation of Snakemake takes about 10,000: make the run in 2 ranges "
        "of shards, --config shards=0-9994, then shards=9995-9998"
    ]
    assert advise(sized({"train": 64 * 9998}), [stage(jobs=9998)]) == []


@pytest.mark.parametrize(
    ("minutes", "size", "better"),
    [(2, 64, "960"), (9, 64, "210"), (200, 64, "9"), (61, 64, "31"), (1, 100_000, None)],
)
def test_shards_of_other_lengths_are_advised_against(
    minutes: float, size: int, better: str | None
) -> None:
    run = sized({"train": 100_000}, size)
    lines = advise(run, [stage("style-a", longest=60 * minutes), stage(longest=1)])
    told = f"a job of style-a takes {minutes} minutes, and 10 to 60 cost least: give "
    expected = [f"{told}shards.identities {better} in place of {size}"] if better else []
    assert lines == expected


def test_start_up_is_no_reason_for_longer_shards() -> None:
    [line] = advise(sized({"train": 10**6}), [stage(longest=300.0, overhead=236.0)])
    assert "give shards.identities 1500 in" in line  # a second a sample, in what is left of 30 min


def test_identities_that_take_hours_are_a_shard_each() -> None:
    run = sized({"train": 100}, 1)
    assert advise(run, [stage(longest=9000.0)]) == []
    assert (
        "shards.identities 1 in place of 2"
        in advise(sized({"train": 9}, 2), [stage(longest=9e3)])[0]
    )


def test_wrong_usage_is_refused(made_on_gpu: Path, tmp_path: Path) -> None:
    for option in ("--gpus", "--identities"):
        refused = call(made_on_gpu, option, "0")
        assert refused.exit_code == 2
        assert f"Invalid value for '{option}'" in refused.output
    assert call(made_on_gpu, "--price", "-1").exit_code == 2
    assert call().exit_code == 2
    with pytest.raises(PipelineError, match="no such folder"):
        call(made_on_gpu, "--out", tmp_path / "runs", "--measured", tmp_path / "none")
    assert call("--help").exit_code == 0


def test_simulating_needs_no_torch(made_on_gpu: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pipeline.scale import simulate; "
        "simulate.main(sys.argv[1:], standalone_mode=False); sys.exit('torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(made_on_gpu), "--out", str(tmp_path / "runs")]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "measured:" in done.stdout
    assert load_run(made_on_gpu).name in done.stdout
