"""Passes over a whole data set: one task a shard, in processes of Dask's on this machine."""

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pipeline.errors import PipelineError


def map_tasks(function: Callable[..., Any], tasks: Sequence[tuple], workers: int) -> Iterator[Any]:
    """Yields function(*task) of every task as they finish, `workers` at a time.

    One worker is this process. What a task raises is raised here; those that are running finish,
    the others are dropped. Raises PipelineError where a worker is killed at the same task again and
    again.
    """
    workers = min(workers, len(tasks))
    if workers <= 1:
        for task in tasks:
            yield function(*task)
        return
    from distributed import Client, KilledWorker, LocalCluster, as_completed

    with (
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            dashboard_address=None,
            silence_logs=logging.CRITICAL,  # what goes wrong is raised here
        ) as cluster,
        Client(cluster) as client,
    ):
        futures = client.map(lambda task: function(*task), tasks, pure=False)
        try:
            for future in as_completed(futures):
                yield future.result()
        except KilledWorker as error:
            raise PipelineError(
                f"a worker was killed again and again ({error.task}); is there enough memory for "
                f"{workers} --workers? take fewer: what is finished stays"
            ) from error
