"""Tars on a file system in memory, as another machine would hold them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from pipeline.inputs import fetching
from tests.pipeline.inputs.test_archives import tar_of


@pytest.fixture
def store(tmp_path: Path) -> Iterator[MemoryFileSystem]:
    """A file system in memory with tars of one image each: memory://b/x-00000.tar to 2."""
    system = fsspec.filesystem("memory")
    for index in range(3):
        system.pipe(f"/b/x-0000{index}.tar", tar_of(tmp_path, index))
    yield system
    system.store.clear()


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "PAUSES", (0.0, 0.0))


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is read of the file system in memory from now on."""
    paths: list[str] = []
    read = MemoryFileSystem.open

    def watch(self: Any, path: str, mode: str = "rb", **kwargs: Any) -> Any:
        if mode == "rb":
            paths.append(path)
        return read(self, path, mode, **kwargs)

    monkeypatch.setattr(MemoryFileSystem, "open", watch)
    return paths
