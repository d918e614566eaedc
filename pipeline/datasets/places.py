"""Where a data set is published: a folder of this machine, or any file system that fsspec knows."""

import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.shards.files import explain, remove_leftovers, sync_folder, write_pieces, write_whole
from pipeline.shards.records import Commit

CHUNK = 4 * 2**20
_NO_LINK = {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP}


@dataclass(frozen=True)
class Folder:
    """A folder of this machine, in which a name only ever shows whole content.

    With `link`, tars are hard links to their sources. Raises ShardError where the disk refuses.
    """

    path: Path
    link: bool = False

    def __str__(self) -> str:
        return str(self.path)

    def names(self, folder: str = "") -> list[str]:
        """What is in a folder; nothing where there is none."""
        where = self.path / folder
        return sorted(path.name for path in where.iterdir()) if where.is_dir() else []

    def read(self, name: str) -> bytes | None:
        """A small file; None where there is none."""
        path = self.path / name
        return path.read_bytes() if path.is_file() else None

    def write(self, name: str, data: bytes) -> None:
        path = self.path / name
        with explain(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, data)

    def remove(self, name: str) -> None:
        with explain(self.path / name):
            (self.path / name).unlink()
            sync_folder(self.path)

    def has_size(self, name: str, commit: Commit) -> bool:
        """Whether a tar of the right size is there."""
        path = self.path / name
        return path.is_file() and path.stat().st_size == commit.bytes

    def has_tar(self, name: str, commit: Commit) -> bool:
        """Whether the tar is there, by its size and hash."""
        if not self.has_size(name, commit):
            return False
        with open(self.path / name, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == commit.sha256

    def copy_tar(self, source: Path, name: str, commit: Commit) -> None:
        """Copy a tar, or link to it. Raises PipelineError where its bytes are not as committed."""
        final = self.path / name
        with explain(final):
            final.parent.mkdir(parents=True, exist_ok=True)
        pieces = read_committed(source, commit)
        if not self.link:
            write_pieces(final, pieces)
            return
        for _ in pieces:
            pass
        with explain(final):
            remove_leftovers(final)
            _link(source, final)
            sync_folder(final.parent)

    def check_space(self, wanted: int) -> None:
        """Raise PipelineError where `wanted` bytes are more than is free."""
        if not self.link:
            check_space(self.path, wanted)


@dataclass(frozen=True)
class Store:
    """A folder of a file system of fsspec's. Raises PipelineError where it refuses.

    A file that is begun there and not finished is removed; one that even that fails for has no
    record after it, and is written again.
    """

    system: Any  # fsspec.AbstractFileSystem
    root: str
    url: str

    def __str__(self) -> str:
        return self.url

    def names(self, folder: str = "") -> list[str]:
        with self._explain(folder, "read"):
            try:
                found = self.system.ls(self._at(folder), detail=False, refresh=True)
            except FileNotFoundError:
                return []
        names = {path.rstrip("/").rpartition("/")[2] for path in found}
        return sorted(names - {folder})  # a file lists itself

    def read(self, name: str) -> bytes | None:
        with self._explain(name, "read"):
            try:
                return self.system.cat_file(self._at(name))
            except FileNotFoundError:
                return None

    def write(self, name: str, data: bytes) -> None:
        self._write(name, iter([data]))

    def remove(self, name: str) -> None:
        with self._explain(name, "remove"):
            self.system.rm_file(self._at(name))

    def has_size(self, name: str, commit: Commit) -> bool:
        with self._explain(name, "read"):
            try:
                return self.system.info(self._at(name), refresh=True)["size"] == commit.bytes
            except FileNotFoundError:
                return False

    has_tar = has_size  # to hash it would be to fetch it

    def copy_tar(self, source: Path, name: str, commit: Commit) -> None:
        """Upload a tar. Raises PipelineError where its bytes are not as committed."""
        self._write(name, read_committed(source, commit))

    def check_space(self, wanted: int) -> None:
        """A store does not say how much is free."""

    def _at(self, name: str) -> str:
        return f"{self.root}/{name}".rstrip("/")

    def _write(self, name: str, pieces: Iterator[bytes]) -> None:
        path = self._at(name)
        with self._explain(name, "write"):
            self.system.makedirs(path.rpartition("/")[0], exist_ok=True)
            try:
                with self.system.open(path, "wb") as file:
                    for piece in pieces:
                        file.write(piece)
            except BaseException:
                with suppress(OSError):
                    self.system.rm_file(path)
                raise

    @contextmanager
    def _explain(self, name: str, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = error.strerror or str(error) or type(error).__name__
            raise PipelineError(
                f"{self.url}/{name}: cannot {what}: {reason}; what is there stays: "
                "mend that and run the same command again"
            ) from error


def open_place(target: str, link: bool = False) -> Folder | Store:
    """The place of a path or an fsspec URL. Raises PipelineError where its file system is unknown,
    needs a package that is not here, or cannot be linked to."""
    import fsspec
    from fsspec.implementations.local import LocalFileSystem

    try:
        system, root = fsspec.core.url_to_fs(target)
    except (ImportError, ValueError) as error:
        raise PipelineError(
            f"{target}: {error}; give a folder, or a URL that fsspec opens"
        ) from error
    if isinstance(system, LocalFileSystem):
        return Folder(Path(root), link)
    if link:
        raise PipelineError(f"{target}: cannot be linked to from here; leave out --link")
    return Store(system, root.rstrip("/"), target.rstrip("/"))


def read_committed(source: Path, commit: Commit) -> Iterator[bytes]:
    """The bytes of a tar, piece by piece.

    Raises PipelineError where it is missing, and after the last piece if they are not those that
    were committed.
    """
    digest = hashlib.sha256()
    try:
        with open(source, "rb", buffering=0) as file:
            while piece := file.read(CHUNK):
                digest.update(piece)
                yield piece
    except FileNotFoundError:
        raise PipelineError(f"{source}: missing; run the stage that makes it again") from None
    if digest.hexdigest() != commit.sha256:
        raise PipelineError(
            f"{source}: sha256 differs from the committed one; remove this shard's files, "
            "run the stage that makes it and verify again"
        )


def check_space(folder: Path, wanted: int) -> None:
    """Raise PipelineError where `wanted` bytes are more than is free at a folder, made or not."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(there).free
    if wanted > free:
        raise PipelineError(
            f"{folder}: needs {wanted / 1e9:.2f} GB, {free / 1e9:.2f} GB are free; "
            "free space there or choose another folder"
        )


def _link(source: Path, final: Path) -> None:
    hidden = final.with_name(f".{final.name}.{secrets.token_hex(4)}.tmp")
    try:
        os.link(source, hidden)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        raise PipelineError(
            f"{final}: cannot be a hard link to {source} ({error.strerror}); leave out --link"
        ) from error
    os.replace(hidden, final)
