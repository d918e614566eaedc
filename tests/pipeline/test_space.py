"""What a run still has to write, and the disk that it is held against."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import space
from pipeline.bounds import bound_checkpoint
from pipeline.console import show_bytes
from pipeline.errors import PipelineError
from pipeline.folders import RunFolder
from pipeline.rates import measure_checkpoints, measure_column
from pipeline.space import estimate_bytes
from tests.pipeline.made import ON_CPU, bytes_in, write_shard

Open = Callable[..., RunFolder]


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets what is free on every disk."""

    def set_free(free: float) -> None:
        monkeypatch.setattr(space, "free_bytes", lambda path: int(free))

    return set_free


def test_a_whole_run_needs_nothing_more(made_run: RunFolder) -> None:
    needs = estimate_bytes(made_run)
    assert [need.name for need in needs] == ["render", "style-statue", "stylized-statue"]
    assert all(need.bytes == 0 and need.measured for need in needs)
    assert space.check_space(made_run) is None


def test_a_bound_holds_what_is_then_written(made_run: RunFolder, tmp_path: Path) -> None:
    needs = {need.name: need for need in estimate_bytes(RunFolder(made_run.run, tmp_path / "none"))}
    checkpoints = measure_checkpoints(made_run)
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
    rate = measure_column(folder, "render")
    assert rate is not None
    assert needs["render"].bytes == pytest.approx(2 * rate.bytes)  # of 4 identities, 2 are made


def test_checkpoints_are_measured_once_there_is_one(copied_run: RunFolder) -> None:
    shutil.rmtree(copied_run.path / "stylizer")
    *_, finetune = estimate_bytes(copied_run)
    assert finetune.measured
    assert finetune.bytes == bound_checkpoint(copied_run.run)[1]  # the model alone
    shutil.rmtree(copied_run.checkpoints)
    *_, finetune = estimate_bytes(copied_run)
    assert not finetune.measured
    assert finetune.bytes > 2 * bound_checkpoint(copied_run.run)[0]


def test_a_bound_that_does_not_fit_is_told(open_variant: Open, limit: Callable) -> None:
    folder = open_variant()
    needed = sum(need.bytes for need in estimate_bytes(folder))
    limit(needed)
    assert space.check_space(folder) is None
    limit(needed - 1)
    told = space.check_space(folder)
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
    told = space.check_space(copied_run)
    assert told is not None
    assert "may need up to" in told
    limit(measured - 1)
    with pytest.raises(PipelineError, match=r"free, and this run needs another .*: render"):
        space.check_space(copied_run)


def test_many_stages_are_told_by_their_largest(open_variant: Open, limit: Callable) -> None:
    names = [f"s{number}" for number in range(9)]
    folder = open_variant({
        "styles": {name: {"source": "procedural:statue"} for name in names},
        "stylize.references": {name: {"style": name} for name in names},
    })  # fmt: skip
    limit(1)
    told = space.check_space(folder)
    assert told is not None
    assert "15 more" in told  # of 10 rendered, 9 stylized, finetune and evaluate
    assert len(told) < 500


def test_free_space_is_that_of_a_folder_yet_to_be_made(tmp_path: Path) -> None:
    free = space.free_bytes(tmp_path / "runs" / "none-yet")
    assert free == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.05)
    assert free > 0
