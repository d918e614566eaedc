"""Ending when asked to: a scheduler that takes the machine away sends SIGTERM first."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from accelerate import Accelerator


@contextmanager
def watched(accelerator: Accelerator) -> Iterator[Callable[[], bool]]:
    """Within, SIGTERM ends nothing: the function given says, to all processes alike, whether one
    of them has had it. Only the main thread can watch; elsewhere SIGTERM does what it did."""
    asked = threading.Event()

    def is_asked() -> bool:
        here = torch.tensor(int(asked.is_set()), device=accelerator.device)
        return bool(accelerator.reduce(here, "sum"))

    if threading.current_thread() is not threading.main_thread():
        yield is_asked
        return
    before = signal.signal(signal.SIGTERM, lambda *_: asked.set())
    try:
        yield is_asked
    finally:
        signal.signal(signal.SIGTERM, before)
