"""Many small files looked at together: over a network each takes milliseconds, nearly all of them
waiting."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Thing = TypeVar("Thing")
Seen = TypeVar("Seen")

WAITING = 16  # threads
TOGETHER = 64  # things that a thread looks at before another may have the rest


def look_ahead(look: Callable[[Thing], Seen], things: Sequence[Thing]) -> Iterator[Seen]:
    """What `look` returns of each thing, in order; the next thousand are looked at meanwhile.

    `look` should wait more than it computes. What it raises comes in its place, and is the last.
    """

    def look_at_some(first: int) -> list[Seen]:
        return [look(thing) for thing in things[first : first + TOGETHER]]

    starts = iter(range(0, len(things), TOGETHER))
    with ThreadPoolExecutor(WAITING, thread_name_prefix="ahead") as pool:
        coming = deque(pool.submit(look_at_some, first) for first in islice(starts, WAITING))
        while coming:
            some = coming.popleft().result()
            coming.extend(pool.submit(look_at_some, first) for first in islice(starts, 1))
            yield from some
