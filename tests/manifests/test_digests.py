import hashlib
import os
from pathlib import Path

import pytest

from manifests import digests


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that counts as large, and a cache of its own."""
    monkeypatch.setattr(digests, "LARGE", 4)
    monkeypatch.setenv("DIFFSTYLE360_CACHE", str(tmp_path / "cache"))
    (tmp_path / "weights").write_bytes(b"weights")
    return tmp_path / "weights"


def test_a_large_file_is_read_once(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert digests.digest_file(large) == hashlib.sha256(b"weights").hexdigest()
    monkeypatch.setattr(digests, "_hash", lambda path: pytest.fail("read again"))
    assert digests.digest_file(large) == hashlib.sha256(b"weights").hexdigest()


def test_a_changed_file_is_another(large: Path) -> None:
    before = digests.digest_file(large)
    facts = large.stat()
    large.write_bytes(b"WEIGHTS")
    os.utime(large, ns=(facts.st_atime_ns, facts.st_mtime_ns))  # as a careless copy leaves it
    assert digests.digest_file(large) != before


def test_a_damaged_or_unwritable_cache_is_done_without(large: Path, tmp_path: Path) -> None:
    expected = digests.digest_file(large)
    [remembered] = (tmp_path / "cache" / "digests").iterdir()
    remembered.write_bytes(b"\xff not a digest")
    assert digests.digest_file(large) == expected
    remembered.unlink()
    (tmp_path / "cache" / "digests").rmdir()
    (tmp_path / "cache" / "digests").touch()
    assert digests.digest_file(large) == expected


def test_a_folder_counts_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_bytes(b"1")
    first = digests.digest_path(tmp_path / "a")
    (tmp_path / "a" / "x").rename(tmp_path / "a" / "y")
    assert digests.digest_path(tmp_path / "a") != first
