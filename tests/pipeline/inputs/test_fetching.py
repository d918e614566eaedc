"""Every fault of a network, a command or a disk: one line of a kind, and nothing half-fetched."""

import os
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from pipeline.inputs import fetching
from pipeline.inputs.remote import fetch_content
from pipeline.shards import ShardError
from tests.pipeline.inputs.test_archives import tar_of
from tests.pipeline.inputs.test_remote import refused

pytestmark = pytest.mark.usefixtures("no_pauses")


@pytest.mark.parametrize(
    ("error", "expected", "tries"),
    [
        (ConnectionResetError(104, "Connection reset by peer"), "Connection reset by peer", 3),
        (TimeoutError(), "TimeoutError", 3),
        (RuntimeError("Server\ndisconnected at /b/x-00000.tar?key=9"), "Server disconnected at", 3),
        (PermissionError(13, "Permission denied"), "Permission denied", 1),
        (NotImplementedError("no ranges"), "no ranges", 1),
        (FileNotFoundError("/b/x-00000.tar"), None, 1),
    ],
)
@pytest.mark.parametrize("method", ["info", "open"])
def test_fault_is_one_line_after_a_few_tries(
    store: MemoryFileSystem,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    expected: str | None,
    tries: int,
    method: str,
) -> None:
    done: list[int] = []

    def fail(*_: Any, **__: Any) -> None:
        done.append(1)
        raise error

    monkeypatch.setattr(MemoryFileSystem, method, fail)
    told = refused("memory://b/x-00000.tar", tmp_path / "c")
    reason = f"cannot be fetched: {expected}" if expected else "not there"
    assert told.startswith(f"x-00000.tar: {reason}")
    assert len(done) == tries
    assert not list(tmp_path.rglob("*.tar")) + list(tmp_path.rglob("*.tmp"))


def test_network_that_comes_back_is_no_fault(
    store: MemoryFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that breaks off half-way, or ends too early."""
    whole, faults = store.cat("/b/x-00000.tar"), [ConnectionError("gone"), None]

    class Cut:
        def __init__(self, fault: Exception | None):
            self.pieces: list[Any] = [whole[:700], fault or b""]

        def __enter__(self) -> "Cut":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def read(self, _: int) -> bytes:
            piece = self.pieces.pop(0)
            if isinstance(piece, Exception):
                raise piece
            return piece

    read = MemoryFileSystem.open
    monkeypatch.setattr(
        MemoryFileSystem,
        "open",
        lambda *a, **k: Cut(faults.pop(0)) if faults else read(*a, **k),
    )
    [tar] = fetch_content("memory://b/x-00000.tar", tmp_path / "c")
    assert tar.path.read_bytes() == whole
    faults[:] = [None, None, None]
    assert "ended after 700 of 10240 bytes" in refused("memory://b/x-00000.tar", tmp_path / "d")


def test_disk_that_fills_is_no_fault_of_the_network(
    store: MemoryFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fetching.Temporary, "write", fill)
    with pytest.raises(ShardError, match="cannot write: No space left on device; free space"):
        fetch_content("memory://b/x-00000.tar", tmp_path / "c")
    assert not list((tmp_path / "c").glob("*.t*"))


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("cat x.tar; echo one >&2; echo two >&2; exit 3", "x.tar: its command ended with exit s"),
        ("kill -9 $$", "pipe.tar: its command ended with signal 9; mend that"),
        ("no-such-program", "pipe.tar: its command ended with exit status 127: "),
    ],
)
def test_command_that_fails_is_told_and_not_tried_again(
    tmp_path: Path, command: str, expected: str
) -> None:
    told = refused(f"pipe:echo x >> {tmp_path}/run; {command}", tmp_path / "c")
    assert told.startswith(expected)
    assert "two" in told or "echo" not in command
    assert (tmp_path / "run").read_text() == "x\n"
    assert not list((tmp_path / "c").glob("*.t*"))


def test_command_that_still_prints_is_ended_where_another_failed(tmp_path: Path) -> None:
    """Whether it prints on and on, or nothing at all."""
    (tmp_path / "1").write_text("echo $$ > one; while :; do echo x; sleep 0.05; done")
    (tmp_path / "2").write_text("echo $$ > two; sleep 60; echo x")
    (tmp_path / "3").write_text("until [ -s one ] && [ -s two ]; do sleep 0.01; done; exit 3")
    told = refused(f"pipe:cd {tmp_path}; exec sh {{1..3}}", tmp_path / "c")
    assert "its command ended with exit status 3" in told
    for name in ("one", "two"):
        with pytest.raises(ProcessLookupError):
            os.kill(int((tmp_path / name).read_text()), 0)


def test_web_server_without_ranges_will_do(tmp_path: Path) -> None:
    pytest.importorskip("aiohttp")
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "x-0.tar").write_bytes(tar_of(tmp_path, 0))

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path / "web"))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    try:
        [tar] = fetch_content(f"{url}/x-{{0..0}}.tar?key=1", tmp_path / "c")
        assert tar.path.read_bytes() == (tmp_path / "web" / "x-0.tar").read_bytes()
        assert fetch_content(f"{url}/x-{{0..0}}.tar?key=1", tmp_path / "c") == [tar]
        assert refused(f"{url}/x-1.tar", tmp_path / "c").startswith("x-1.tar: not there")
    finally:
        server.shutdown()
