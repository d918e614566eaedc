import os
from pathlib import Path

import dask
import pytest

from pipeline.datasets.workers import map_tasks
from pipeline.errors import PipelineError
from pipeline.shards import ShardError


def double(number: int, base: Path) -> int:
    if number < 0:
        raise ShardError(f"{number}: damaged")
    (base / f"{number}-{os.getpid()}").touch()
    return 2 * number


def die(number: int) -> None:
    os._exit(number)


def test_one_worker_is_this_process(tmp_path: Path) -> None:
    tasks = [(number, tmp_path) for number in range(3)]
    assert list(map_tasks(double, tasks, 1)) == [0, 2, 4]
    assert {path.name.split("-")[1] for path in tmp_path.iterdir()} == {str(os.getpid())}
    assert list(map_tasks(double, [], 8)) == []
    with pytest.raises(ShardError, match="-1: damaged"):
        list(map_tasks(double, [(-1, tmp_path)], 1))


def test_workers_are_processes_and_their_errors_are_raised_here(tmp_path: Path) -> None:
    tasks = [(number, tmp_path) for number in range(4)]
    assert sorted(map_tasks(double, tasks, 2)) == [0, 2, 4, 6]
    assert str(os.getpid()) not in {path.name.split("-")[1] for path in tmp_path.iterdir()}
    with pytest.raises(ShardError, match="-1: damaged"):
        list(map_tasks(double, [(1, tmp_path), (-1, tmp_path)], 2))


def test_a_killed_worker_is_one_line() -> None:
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        pytest.raises(PipelineError, match="a worker was killed again and again"),
    ):
        list(map_tasks(die, [(1,), (1,)], 2))
