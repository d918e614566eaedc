"""Tars at URLs and of commands: listed as those of this machine, fetched once, brought back."""

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from pipeline.errors import PipelineError
from pipeline.inputs import remote
from pipeline.inputs.contents import read_source
from pipeline.inputs.listing import list_content
from pipeline.inputs.remote import TarFailure, bring_back, fetch_content, means_tars_elsewhere
from tests.pipeline.inputs.test_archives import tar_of, write_tar

pytestmark = pytest.mark.usefixtures("no_pauses")


def refused(content: str, cache: Path) -> str:
    with pytest.raises(PipelineError) as caught:
        fetch_content(content, cache)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_range_is_listed_as_tars_of_this_machine_are(
    store: MemoryFileSystem, tmp_path: Path
) -> None:
    inputs = list_content("memory://b/x-{00000..00002}.tar", cache=tmp_path / "run/.content")
    for index in range(3):
        (tmp_path / "here").mkdir(exist_ok=True)
        (tmp_path / f"here/x-0000{index}.tar").write_bytes(store.cat(f"/b/x-0000{index}.tar"))
    here = list_content(str(tmp_path / "here"))
    assert [(one.key, one.origin) for one in inputs] == [(one.key, one.origin) for one in here]
    assert [read_source(one.views[0]) for one in inputs] == [b"image 0", b"image 1", b"image 2"]
    data = store.cat("/b/x-00000.tar")
    assert inputs[0].sha256 == hashlib.sha256(data).hexdigest()
    assert inputs[0].views[0].path.read_bytes() == data
    assert inputs[0].views[0].path.parent == tmp_path / "run/.content"
    assert not list((tmp_path / "run/.content").glob("*.tmp"))


def test_glob_is_what_is_there_in_order(store: MemoryFileSystem, tmp_path: Path) -> None:
    store.pipe("/b/x-10.tar", tar_of(tmp_path, 7))
    store.pipe("/b/deep/x-9.tar", tar_of(tmp_path, 8))
    store.pipe("/b/notes.txt", b"no tar")
    names = [tar.name for tar in fetch_content("memory://b/x-*.tar", tmp_path / "c")]
    assert names == ["x-00000.tar", "x-00001.tar", "x-00002.tar", "x-10.tar"]
    names = [tar.name for tar in fetch_content("memory://b/**/x-*.tar", tmp_path / "d")]
    assert "deep/x-9.tar" in names
    assert refused("memory://b/y-*.tar", tmp_path) == (
        "memory://b/y-*.tar: no such tar there; correct the content"
    )


def test_tars_of_this_machine_stay_where_they_are(tmp_path: Path) -> None:
    for index in range(2):
        write_tar(tmp_path / f"x-{index}.tar", {"a.png": b"1"})
    for content in (f"file://{tmp_path}/x-{{0..1}}.tar", f"{tmp_path}/x-{{0..1}}.tar"):
        assert means_tars_elsewhere(content)
        tars = fetch_content(content, tmp_path / "cache")
        assert [(tar.name, tar.path) for tar in tars] == [
            (f"x-{index}.tar", tmp_path / f"x-{index}.tar") for index in range(2)
        ]
    assert not (tmp_path / "cache").exists()
    assert f"{tmp_path}/x-2.tar: no such file" in refused(f"{tmp_path}/x-{{0..2}}.tar", tmp_path)
    strange = write_tar(tmp_path / "y-{0..1}.tar", {"a.png": b"1"})
    assert not means_tars_elsewhere(str(strange))
    assert len(list_content(str(strange))) == 1


def test_what_is_here_is_not_fetched_again_unless_it_changed(
    store: MemoryFileSystem, tmp_path: Path, opened: list[str]
) -> None:
    content, cache = "memory://b/x-{00000..00002}.tar", tmp_path / "c"
    first = fetch_content(content, cache)
    assert len(opened) == 3
    assert fetch_content(content, cache) == first
    assert len(opened) == 3
    store.pipe("/b/x-00001.tar", tar_of(tmp_path, 9))  # of the same size
    again = fetch_content(content, cache)
    assert len(opened) == 4
    assert [a == b for a, b in zip(first, again, strict=True)] == [True, False, True]
    assert all(tar.path.is_file() for tar in (*first, *again))  # what was planned stays
    os.truncate(again[0].path, 512)
    assert fetch_content(content, cache) == again
    assert again[0].path.stat().st_size > 512
    [note] = cache.glob("x-00002*.json")
    note.write_text("[")
    assert fetch_content(content, cache) == again
    assert json.loads(note.read_text())["sha256"] == again[2].sha256


def test_fetching_goes_on_where_it_stopped(
    store: MemoryFileSystem, tmp_path: Path, opened: list[str]
) -> None:
    content, last = "memory://b/x-{00000..00002}.tar", store.cat("/b/x-00002.tar")
    store.rm("/b/x-00002.tar")
    told = refused(content, tmp_path / "c")
    assert told.startswith("x-00002.tar: not there; mend that and run the same command again; ")
    store.pipe("/b/x-00002.tar", last)
    read = MemoryFileSystem.open

    def break_off(self: Any, path: str, mode: str = "rb", **options: Any) -> Any:
        if "00002" in path and not list((tmp_path / "c").glob("x-00000*.json")):
            time.sleep(0.05)  # the others come first
        return read(self, "/none" if "00002" in path else path, mode, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MemoryFileSystem, "open", break_off)
        assert refused(content, tmp_path / "c").startswith("x-00002.tar: not there")
    assert len(fetch_content(content, tmp_path / "c")) == 3
    assert sorted(opened) == [f"/b/x-0000{index}.tar" for index in range(3)] + ["/none"]


def test_place_that_is_no_tar_is_told(store: MemoryFileSystem, tmp_path: Path) -> None:
    assert refused("memory://b", tmp_path).startswith("b: a folder; give its tars, as .../*.tar")
    store.pipe("/b/page", b"<html>Sign in</html>")
    [one] = list_content("memory://b/page", cache=tmp_path / "c")
    assert one.problem is not None
    assert one.problem[0] == "not_an_archive"
    told = refused("nowhere://b/x.tar?key=secret", tmp_path)
    assert told.startswith("nowhere://b/x.tar: Protocol not known: nowhere; give a URL that fsspec")
    assert "secret" not in told
    with pytest.raises(PipelineError, match="a folder or tars of this machine are taken here"):
        list_content("memory://b/x-00000.tar")
    with pytest.raises(PipelineError, match="--portraits takes a folder of images"):
        list_content("memory://b/x-00000.tar", portraits=True, cache=tmp_path)


def test_disk_that_is_too_small_is_told_before_a_byte_is_read(
    store: MemoryFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: list[str]
) -> None:
    usage = SimpleNamespace(free=30_000)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    told = refused("memory://b/x-{00000..00002}.tar", tmp_path / "c")
    assert "c: needs 0.00 GB, 0.00 GB are free; free space there" in told
    assert opened == []
    usage.free = 30_720
    assert len(fetch_content("memory://b/x-{00000..00002}.tar", tmp_path / "c")) == 3


def test_command_prints_a_tar(tmp_path: Path) -> None:
    for index in range(2):
        (tmp_path / f"x-{index}.tar").write_bytes(tar_of(tmp_path, index))
    content = f"pipe:echo x >> {tmp_path}/run; cat {tmp_path}/x-{{0..1}}.tar"
    inputs = list_content(content, cache=tmp_path / "c")
    assert [one.origin for one in inputs] == ["x-0.tar: a0", "x-1.tar: a1"]
    assert [read_source(one.views[0]) for one in inputs] == [b"image 0", b"image 1"]
    assert list_content(content, cache=tmp_path / "c") == inputs
    assert (tmp_path / "run").read_text() == "x\n" * 2  # what it printed once stays
    names = [tar.name for tar in fetch_content("pipe:cd /; seq {1..2}", tmp_path / "d")]
    assert len(set(names)) == 2
    assert all(name.endswith("/pipe.tar") for name in names)


def test_secrets_of_a_url_are_not_in_names() -> None:
    web, store = SimpleNamespace(), None
    places: list[Any] = [(f"https://me:pw@host/d/x-{i}.tar?key=s3cret", web) for i in range(2)]
    assert remote._name(places) == ["x-0.tar", "x-1.tar"]
    command = "curl -H 'Auth: s3cret' 'https://host/d{}/x.tar?key=s3cret'"
    assert remote._name([(command.format(i), store) for i in range(2)]) == ["d0/x.tar", "d1/x.tar"]
    assert remote._name([("https://host/", web)]) == ["host"]


def test_what_is_gone_is_brought_back(
    store: MemoryFileSystem, tmp_path: Path, opened: list[str]
) -> None:
    content, cache = "memory://b/x-{00000..00002}.tar", tmp_path / "c"
    tars = fetch_content(content, cache)
    wanted = {tar.path: tar.sha256 for tar in tars}
    assert bring_back(content, cache, wanted) == {}
    for tar in tars:
        tar.path.unlink()
    store.pipe("/b/x-00001.tar", tar_of(tmp_path, 9))
    store.rm("/b/x-00002.tar")
    del opened[:]
    failures = bring_back(content, cache, wanted)
    assert opened == ["/b/x-00000.tar", "/b/x-00001.tar"]
    assert {path: (f.kind, str(f)) for path, f in failures.items()} == {
        tars[1].path: (
            "changed", "x-00001.tar: not the tar that was listed; it was changed since"
        ),
        tars[2].path: ("missing", "x-00002.tar: not there"),
    }  # fmt: skip
    assert hashlib.sha256(tars[0].path.read_bytes()).hexdigest() == tars[0].sha256
    assert [path.name for path in cache.glob("*.tar")] == [tars[0].path.name]
    glob = bring_back("memory://gone/*.tar", cache, {cache / "y.0123.tar": "0"})
    assert [f.kind for f in glob.values()] == ["missing"]


def test_jobs_that_miss_the_same_tar_fetch_it_once(
    store: MemoryFileSystem, tmp_path: Path, opened: list[str]
) -> None:
    content, cache = "memory://b/x-00000.tar", tmp_path / "c"
    [tar] = fetch_content(content, cache)
    tar.path.unlink()
    del opened[:]
    found: list[dict[Path, TarFailure]] = []
    bring: Callable[[], None] = lambda: found.append(  # noqa: E731
        bring_back(content, cache, {tar.path: tar.sha256})
    )
    threads = [threading.Thread(target=bring) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [{}] * 4
    assert len(opened) == 1
