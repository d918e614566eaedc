"""Rates of what was made: samples, jobs, steps."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import rates
from pipeline.errors import PipelineError
from pipeline.folders import RunFolder
from pipeline.rates import Rate, measure_column
from pipeline.shards import ShardError
from pipeline.shards.records import read_records
from tests.pipeline.made import ON_CPU, ON_GPU, bytes_in, write_benchmark, write_shard

Open = Callable[..., RunFolder]


def rate_of(folder: RunFolder) -> Rate:
    rate = measure_column(folder, "render")
    assert rate is not None
    return rate


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
    monkeypatch.setattr(rates, "SAMPLED", 3)
    monkeypatch.setattr(
        rates,
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
    assert rates.read_benchmark(path) is None
    path.write_text(content)
    with pytest.raises(PipelineError, match=r"verify.tsv: not a benchmark of Snakemake's; remove"):
        rates.read_benchmark(path)


def test_steps_of_a_fine_tune(copied_run: RunFolder, open_variant: Open) -> None:
    assert rates.read_step_seconds(open_variant()) == []
    path = copied_run.checkpoints / "loss.csv"
    times = rates.read_step_seconds(copied_run)
    assert len(times) == 2
    assert all(seconds > 0 for seconds in times)
    whole = path.read_text()
    path.write_text(whole + "2,0.5,0.5")  # killed while it wrote
    assert rates.read_step_seconds(copied_run) == times
    path.write_text(whole.replace("\n1,", "\nfoo\n1,", 1))
    with pytest.raises(PipelineError, match=r"loss.csv: row 3 has no seconds"):
        rates.read_step_seconds(copied_run)
    path.write_text("step,loss\n0,0.5\n")
    with pytest.raises(PipelineError, match=r"loss.csv: row 2 has no seconds"):
        rates.read_step_seconds(copied_run)
