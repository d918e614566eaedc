"""SHA-256 of files and folders; that of a large file is computed once and remembered."""

import hashlib
import os
from contextlib import suppress
from pathlib import Path

LARGE = 64 << 20  # bytes


def digest_path(path: Path) -> str:
    """SHA-256 over a file, or over the files of a folder with their names."""
    digest = hashlib.sha256()
    for file in sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]:
        digest.update(f"{file.name if path.is_dir() else ''} {digest_file(file)}\n".encode())
    return digest.hexdigest()


def digest_file(path: Path) -> str:
    """SHA-256 of a file's content.

    A large file's is kept in the cache folder under its place, size, inode and times of change, so
    that a thousand jobs read it once; a cache that cannot be written is done without.
    """
    facts = path.stat()
    if facts.st_size < LARGE:
        return _hash(path)
    known = (path.resolve(), facts.st_size, facts.st_ino, facts.st_mtime_ns, facts.st_ctime_ns)
    name = hashlib.sha256(repr(known).encode()).hexdigest()
    remembered = _cache() / "digests" / name
    with suppress(OSError, UnicodeDecodeError):
        text = remembered.read_text()
        if len(text) == 64 and set(text) <= set("0123456789abcdef"):
            return text
    digest = _hash(path)
    with suppress(OSError):
        remembered.parent.mkdir(parents=True, exist_ok=True)
        partial = remembered.with_name(f".{name}.{os.getpid()}.partial")
        partial.write_text(digest)
        partial.replace(remembered)
    return digest


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _cache() -> Path:
    given = os.environ.get("DIFFSTYLE360_CACHE")
    return Path(given) if given else Path.home() / ".cache" / "diffstyle360"
