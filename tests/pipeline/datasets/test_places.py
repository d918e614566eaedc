import errno
import hashlib
import os
from pathlib import Path

import fsspec
import pytest

from pipeline.datasets.places import Folder, Store, open_place
from pipeline.errors import PipelineError
from pipeline.shards import ShardError
from pipeline.shards.records import Commit


@pytest.fixture
def tar(tmp_path: Path) -> tuple[Path, Commit]:
    data = bytes(range(256)) * 100
    (tmp_path / "a.tar").write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    return tmp_path / "a.tar", Commit(1, len(data), digest, "", {}, "")


@pytest.mark.parametrize("target", ["folder", "file", "memory"])
def test_files_come_and_go(target: str, tmp_path: Path, tar: tuple[Path, Commit]) -> None:
    source, commit = tar
    urls = {"folder": "", "file": "file://", "memory": "memory:/"}
    place = open_place(f"{urls[target]}{tmp_path / 'there'}")
    assert isinstance(place, Store if target == "memory" else Folder)
    assert place.names() == place.names("render") == []
    assert place.read("README.md") is None
    assert not place.has_tar("render/b.tar", commit)
    place.copy_tar(source, "render/b.tar", commit)
    place.write("README.md", b"one")
    place.write("README.md", b"two")
    assert place.names() == ["README.md", "render"]
    assert place.names("render") == ["b.tar"]
    assert place.names("README.md") == []
    assert place.read("README.md") == b"two"
    assert place.has_tar("render/b.tar", commit)
    assert not place.has_size("render/b.tar", commit._replace(bytes=1))
    place.remove("README.md")
    assert place.names() == ["render"]


@pytest.mark.parametrize("target", ["folder", "memory"])
def test_wrong_and_missing_sources_leave_nothing(
    target: str, tmp_path: Path, tar: tuple[Path, Commit]
) -> None:
    source, commit = tar
    root = tmp_path / "there"
    place = open_place(f"memory:/{root}" if target == "memory" else str(root))
    with pytest.raises(PipelineError, match=r"a\.tar: sha256 differs from the committed one"):
        place.copy_tar(source, "b.tar", commit._replace(sha256="0" * 64))
    with pytest.raises(PipelineError, match=r"c\.tar: missing; run the stage"):
        place.copy_tar(tmp_path / "c.tar", "b.tar", commit)
    assert place.names() == []


def test_unknown_file_systems_are_one_line() -> None:
    with pytest.raises(PipelineError, match=r"nonsense://x: .*nonsense.*; give a folder, or"):
        open_place("nonsense://x")
    with pytest.raises(PipelineError, match="cannot be linked to from here; leave out --link"):
        open_place("memory://x", link=True)


def test_a_file_system_that_needs_a_package_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("fsspec.core.url_to_fs", fail)
    with pytest.raises(PipelineError, match=r"s3://bucket: Install s3fs to access S3; give"):
        open_place("s3://bucket")


def test_links_across_file_systems_are_refused(
    tmp_path: Path, tar: tuple[Path, Commit], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", fail)
    with pytest.raises(PipelineError, match=r"b\.tar: cannot be a hard link .*leave out --link"):
        Folder(tmp_path / "there", link=True).copy_tar(tar[0], "b.tar", tar[1])
    assert os.listdir(tmp_path / "there") == []


def test_a_disk_that_fills_leaves_no_name(
    tmp_path: Path, tar: tuple[Path, Commit], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", fail)
    with pytest.raises(ShardError, match=r"b\.tar: cannot write: No space left.*free space"):
        Folder(tmp_path / "there").copy_tar(tar[0], "b.tar", tar[1])
    assert os.listdir(tmp_path / "there") == []


def test_a_store_that_refuses_is_one_line(
    tar: tuple[Path, Commit], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = open_place("memory://refusing")
    system = type(fsspec.filesystem("memory"))

    def fail(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Access Denied")

    for method in ("open", "cat_file", "ls", "info", "rm_file"):
        monkeypatch.setattr(system, method, fail)
    calls = {
        "write": lambda: place.copy_tar(tar[0], "b.tar", tar[1]),
        "read": lambda: place.read("README.md"),
        "remove": lambda: place.remove("README.md"),
    }
    for what, call in calls.items():
        with pytest.raises(PipelineError, match=rf"memory://refusing/.*: cannot {what}: Access De"):
            call()
    for read in (lambda: place.names("render"), lambda: place.has_size("b.tar", tar[1])):
        with pytest.raises(PipelineError, match="cannot read: Access Denied"):
            read()
