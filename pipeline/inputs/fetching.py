"""One tar that lies elsewhere, fetched: whole or not at all, a few times where the network fails.

It is kept under a name with its hash, so that another one at the same URL never takes the place of
one that was planned. Beside it, a note says what its origin told of it: while that tells the same,
it is not fetched again. A command cannot be asked; what it printed once stays.
"""

import fcntl
import hashlib
import json
import os
import select
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.datasets.places import CHUNK
from pipeline.errors import PipelineError
from pipeline.inputs.naming import legible
from pipeline.shards.files import Temporary, explain, remove_leftovers, sync_folder, write_whole

LOOK = 200  # milliseconds between looks whether a command that prints nothing is still wanted
PAUSES = (1.0, 4.0, 15.0)  # seconds before another try, where the network failed
_MARKS = (  # by which file systems tell one state of a file from another
    "ETag", "etag", "Content-MD5", "content_md5", "md5Hash", "crc32c", "Digest", "LastModified",
    "Last-Modified", "last_modified", "updated", "mtime", "created",
)  # fmt: skip
_DIGEST = 12  # hexadecimal digits of its bytes' hash in a tar's name


class Remote(NamedTuple):
    """A tar that lies elsewhere."""

    name: str
    stem: Path  # in the folder that it is fetched into; its name begins so
    place: str  # a path of `system`, else a command
    system: Any  # fsspec.AbstractFileSystem; None: a command prints it


class TarFailure(PipelineError):
    """A tar that cannot be had; `kind` is the status of the rows that it fails.

    Kinds: missing, unreadable, unreachable, command_failed, changed.
    """

    def __init__(self, kind: str, message: str):
        super().__init__(message)
        self.kind = kind


def ask(remote: Remote, stop: threading.Event) -> dict[str, Any]:
    """What the file system tells of a tar: its size and its mark; nothing of a command's."""
    if remote.system is None:
        return {}
    try:
        remote.system.invalidate_cache()
        told = remote.system.info(remote.place)
    except Exception as error:  # whatever the file system's own library raises
        raise explain_fault(error, remote.name, remote.place) from error
    if told.get("type") == "directory":
        raise TarFailure("unreadable", f"{remote.name}: a folder; give its tars, as .../*.tar")
    mark = next((str(told[name]) for name in _MARKS if told.get(name)), None)
    return {"size": told.get("size"), "mark": mark}


def keep(
    remote: Remote,
    told: Mapping[str, Any],
    sha256: str | None = None,
    stop: threading.Event | None = None,
) -> None:
    """Fetch a tar unless it is here: the one of this hash if it is given, else that of `told`."""
    stop = stop or threading.Event()
    with explain(remote.stem):
        remote.stem.parent.mkdir(parents=True, exist_ok=True)
    with _alone(remote):
        there = is_noted(remote, told) if sha256 is None else path_of(remote, sha256).is_file()
        if not there:
            persist(partial(_fetch, told=told, sha256=sha256), remote, stop)


def _fetch(
    remote: Remote, stop: threading.Event, told: Mapping[str, Any], sha256: str | None
) -> None:
    """One try: the tar appears whole, then its note. Raises TarFailure, and nothing appears."""
    final, digest, size = remote.stem.with_name(f"{remote.stem.name}.tar"), hashlib.sha256(), 0
    with explain(final):
        remove_leftovers(final)
        temporary = Temporary(final)
        try:
            for piece in (_read if remote.system else _run)(remote, stop):
                temporary.write(piece)
                digest.update(piece)
                size += len(piece)
            if told.get("size") not in (None, size):
                what = f"ended after {size} of {told['size']} bytes"
                raise TarFailure("unreachable", f"{remote.name}: cannot be fetched: {what}")
            if sha256 not in (None, digest.hexdigest()):
                what = "not the tar that was listed; it was changed since"
                raise TarFailure("changed", f"{remote.name}: {what}")
            temporary.sync()
            temporary.final = path_of(remote, digest.hexdigest())
            temporary.publish()
        except BaseException:
            temporary.discard()
            raise
        sync_folder(final.parent)
    note = {"told": dict(told), "size": size, "sha256": digest.hexdigest()}
    write_whole(_note(remote), json.dumps(note, indent=1).encode())


def _read(remote: Remote, stop: threading.Event) -> Iterator[bytes]:
    try:
        with remote.system.open(remote.place, "rb", block_size=2 * CHUNK) as file:
            while piece := file.read(CHUNK):
                _check(remote, stop)
                yield piece
    except Exception as error:  # whatever the file system's own library raises
        raise explain_fault(error, remote.name, remote.place) from error


def _run(remote: Remote, stop: threading.Event) -> Iterator[bytes]:
    """What a command prints; what it says on stderr is told where it fails."""
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            remote.place,
            shell=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=said,
            start_new_session=True,  # so that it can be ended with all that it started
        )
        assert process.stdout is not None
        try:
            ready = select.poll()
            ready.register(process.stdout, select.POLLIN)
            while True:
                _check(remote, stop)
                if ready.poll(LOOK):
                    if not (piece := os.read(process.stdout.fileno(), CHUNK)):
                        break
                    yield piece
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        finally:
            process.stdout.close()
            code = process.wait()
        if code:
            said.seek(0)
            text = said.read()[-4096:].decode("utf-8", "replace").replace("\r", "\n")
            last = text.strip().rpartition("\n")[2][:300]
            how = f"exit status {code}" if code > 0 else f"signal {-code}"
            reason = f"its command ended with {how}" + (f": {legible(last)}" if last else "")
            raise TarFailure("command_failed", f"{remote.name}: {reason}")


def _check(remote: Remote, stop: threading.Event) -> None:
    if stop.is_set():
        raise TarFailure("unreachable", f"{remote.name}: stopped")


def persist(work: Any, remote: Remote, stop: threading.Event | None = None) -> Any:
    """What `work` of a tar returns, tried again after a while where the network failed."""
    stop = stop or threading.Event()
    for pause in PAUSES:
        try:
            return work(remote, stop=stop)
        except TarFailure as failure:
            if failure.kind != "unreachable" or stop.wait(pause):
                raise
    return work(remote, stop=stop)


def explain_fault(error: Exception, name: str, place: str) -> TarFailure:
    """Why a file system did not give a tar, or tell of it."""
    if isinstance(error, TarFailure):
        return error
    if isinstance(error, FileNotFoundError):
        return TarFailure("missing", f"{name}: not there")
    reason = getattr(error, "strerror", None) or " ".join(str(error).split())
    reason = legible(str(reason).replace(place, name)) or type(error).__name__
    lasting = PermissionError, IsADirectoryError, NotImplementedError
    kind = "unreadable" if isinstance(error, lasting) else "unreachable"
    return TarFailure(kind, f"{name}: cannot be fetched: {reason}")


def is_noted(remote: Remote, told: Mapping[str, Any]) -> bool:
    """Whether the tar is here as its origin tells of it now."""
    note = read_note(remote)
    if note is None or note["told"] != told:
        return False
    path = path_of(remote, note["sha256"])
    return path.is_file() and path.stat().st_size == note["size"]


def read_note(remote: Remote) -> dict[str, Any] | None:
    """What was noted of a tar that is here; None where nothing was that can be read."""
    try:
        note = json.loads(_note(remote).read_text(encoding="utf-8"))
        return {name: note[name] for name in ("told", "size", "sha256")}
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _note(remote: Remote) -> Path:
    return remote.stem.with_name(f"{remote.stem.name}.json")


def path_of(remote: Remote, sha256: str) -> Path:
    return remote.stem.with_name(f"{remote.stem.name}.{sha256[:_DIGEST]}.tar")


@contextmanager
def _alone(remote: Remote) -> Iterator[None]:
    """One at a time fetches a tar, on all machines; on file systems without locks, each does."""
    lock = remote.stem.with_name(f".{remote.stem.name}.lock")
    file = os.open(lock, os.O_CREAT | os.O_WRONLY, 0o666)
    try:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)
