"""Files that appear at their final name only when they are whole."""

import errno
import fcntl
import os
import secrets
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.shards import ShardError

_ADVICE = {
    errno.ENOSPC: "free space there or choose another folder",
    errno.EDQUOT: "free some of the quota there or choose another folder",
    errno.EFBIG: "raise the limit on file sizes (ulimit -f)",
    errno.EROFS: "choose a folder that can be written",
    errno.EACCES: "make the folder writable or choose another",
    errno.EPERM: "make the folder writable or choose another",
    errno.ENOENT: "another job may be writing the same shard; run only one",
}


@contextmanager
def explain(path: str | Path) -> Iterator[None]:
    """Turns an OSError raised while writing `path` into one line that says what to do."""
    try:
        yield
    except OSError as error:
        advice = _ADVICE.get(error.errno or 0, "check the disk and run the job again")
        raise ShardError(f"{path}: cannot write: {error.strerror or error}; {advice}") from error


class Temporary:
    """A file under a hidden name beside `final`, locked for as long as its writer lives.

    Raises OSError: see `explain`.
    """

    def __init__(self, final: Path):
        self.final = final
        self._open()
        while not self._lock():
            self.discard()
            self._open()

    def _open(self) -> None:
        token = f"{socket.gethostname()}.{os.getpid()}.{secrets.token_hex(4)}"
        self.path = self.final.with_name(f".{self.final.name}.{token}.tmp")
        self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)

    def _lock(self) -> bool:
        """Whether it is ours: another job may take it for a leftover before it is locked."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # a file system without locks: leftovers there are never removed
            return True
        return os.fstat(self._file).st_nlink > 0

    def write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._file, rest) :]

    def sync(self) -> None:
        os.fsync(self._file)

    def publish(self) -> None:
        """Moves the synced file to its final name; `sync_folder` makes that durable."""
        os.replace(self.path, self.final)
        os.close(self._file)

    def discard(self) -> None:
        with suppress(OSError):
            self.path.unlink(missing_ok=True)
        with suppress(OSError):
            os.close(self._file)


def remove_leftovers(final: Path) -> None:
    """Removes the temporaries of `final` whose writers are dead: nobody holds their lock."""
    prefix = f".{final.name}."
    for name in os.listdir(final.parent):
        if not (name.startswith(prefix) and name.endswith(".tmp")):
            continue
        path = final.with_name(name)
        with suppress(OSError):  # locked by a living writer, or gone meanwhile
            file = os.open(path, os.O_WRONLY)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
            finally:
                os.close(file)


def sync_folder(folder: Path) -> None:
    file = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def write_whole(final: Path, data: bytes) -> None:
    """Writes a small file so that its name only ever shows whole content.

    Raises ShardError if the disk refuses.
    """
    write_pieces(final, [data])


def write_pieces(final: Path, pieces: Iterable[bytes]) -> None:
    """Writes a file, or none where `pieces` raises, as `write_whole` does."""
    with explain(final):
        remove_leftovers(final)
        temporary = Temporary(final)
        try:
            for piece in pieces:
                temporary.write(piece)
            temporary.sync()
            temporary.publish()
        except BaseException:
            temporary.discard()
            raise
        sync_folder(final.parent)
