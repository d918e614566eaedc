"""What people read: sizes; progress on stderr, a bar on a terminal, else a line now and then."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 10.0
UNITS = ("B", "kB", "MB", "GB", "TB", "PB")
Item = TypeVar("Item")


def show_bytes(number: float) -> str:
    """``"1.2 TB"``, in powers of a thousand."""
    power = 0
    while number >= 999.5 and power < len(UNITS) - 1:
        number, power = number / 1000, power + 1
    return f"{number:.3g} {UNITS[power]}"


def progress(items: Iterable[Item], label: str, total: int) -> Iterator[Item]:
    """Pass `items` on, showing how many of `total` are done."""
    with follow(label, total) as show:
        for done, item in enumerate(items):
            yield item
            show(done)


@contextmanager
def follow(label: str, total: int) -> Iterator[Callable[..., None]]:
    """A function to call as `show(index)`, or `show(index, loss)`, after each of `total` steps.

    The first index may be above 0, where earlier steps were done by an earlier process.
    """
    with tqdm(desc=label, total=total, leave=False, disable=not sys.stderr.isatty()) as bar:
        began = last = time.monotonic()
        before: int | None = None

        def show(index: int, loss: float | None = None) -> None:
            nonlocal last, before
            if before is None:
                before = bar.n = index
            bar.update(index + 1 - bar.n)
            note = "" if loss is None else f", loss {loss:.4f}"
            bar.set_postfix_str(note.removeprefix(", "))
            now = time.monotonic()
            if bar.disable and (now - last > SECONDS_BETWEEN_LINES or index + 1 == total):
                rate = (index + 1 - before) / max(now - began, 1e-9)
                line = f"{label}: {index + 1}/{total}, {rate:.2f}/s{note}"
                print(line, file=sys.stderr, flush=True)
                last = now

        yield show
