"""Encoding on threads beside rendering, results in order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def encode_ahead(
    function: Callable[[T], R], items: Iterable[T], workers: int, ahead: int
) -> Iterator[R]:
    """Yields function(item) in the order of `items`, computed by `workers` threads.

    `items` is advanced on the caller's thread, at most `ahead` items before the result being
    yielded, so memory stays bounded. An exception of `items` or `function` surfaces at its place
    in the order; what is not started then is dropped.
    """
    pending: deque[Future[R]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="encode")
    try:
        source = iter(items)
        while True:
            try:
                item = next(source)
            except StopIteration:
                break
            except Exception as error:
                failed: Future[R] = Future()
                failed.set_exception(error)
                pending.append(failed)
                break
            pending.append(pool.submit(function, item))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
