import errno
import fcntl
import os

import pytest

from pipeline.shards import ShardError
from pipeline.shards.files import Temporary, explain, remove_leftovers, write_whole


def test_a_file_is_replaced_whole(tmp_path):
    final = tmp_path / "wids.json"
    write_whole(final, b"one" * 1000)
    write_whole(final, b"two")
    assert final.read_bytes() == b"two"
    assert list(tmp_path.iterdir()) == [final]


def test_a_write_that_fails_keeps_the_old_content(tmp_path, monkeypatch):
    final = tmp_path / "wids.json"
    write_whole(final, b"old")

    def refuse(file):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(ShardError, match=r"wids.json: cannot write: Input/output error; check"):
        write_whole(final, b"new")
    assert final.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [final]


def test_partial_writes_are_continued(tmp_path, monkeypatch):
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:7]))
    write_whole(tmp_path / "file", bytes(range(100)))
    assert (tmp_path / "file").read_bytes() == bytes(range(100))


def test_only_leftovers_of_the_same_file_and_of_dead_writers_are_removed(tmp_path):
    final = tmp_path / "train-00000.tar"
    living = Temporary(final)
    dead = tmp_path / ".train-00000.tar.node7.4711.0badcafe.tmp"
    other = tmp_path / ".train-00001.tar.node7.4711.0badcafe.tmp"
    for path in (dead, other, final):
        path.touch()
    remove_leftovers(final)
    assert set(tmp_path.iterdir()) == {living.path, other, final}
    living.discard()
    assert set(tmp_path.iterdir()) == {other, final}


@pytest.mark.parametrize("busy", [False, True])
def test_a_file_taken_for_a_leftover_before_it_is_locked_is_made_again(tmp_path, monkeypatch, busy):
    """As by another job that starts to write the same file at the same moment."""
    flock, taken = fcntl.flock, []

    def take_first(file, how):
        if not taken:
            taken.extend(tmp_path.iterdir())
            taken[0].unlink()
            if busy:
                raise BlockingIOError(errno.EWOULDBLOCK, "")
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", take_first)
    write_whole(tmp_path / "claim.json", b"{}")
    assert len(taken) == 1
    assert list(tmp_path.iterdir()) == [tmp_path / "claim.json"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO])
def test_refusals_of_the_disk_are_one_line(code):
    with pytest.raises(ShardError) as caught, explain("render/train-00000.tar"):
        raise OSError(code, os.strerror(code))
    line = str(caught.value)
    assert line.startswith(f"render/train-00000.tar: cannot write: {os.strerror(code)}; ")
    assert "\n" not in line
