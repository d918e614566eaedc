import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.datasets import publish as module
from pipeline.datasets.layout import Collection, open_collection
from pipeline.datasets.places import Folder, open_place
from pipeline.datasets.publish import publish
from pipeline.errors import PipelineError
from pipeline.shards.codecs import decode
from pipeline.shards.reader import Column
from pipeline.shards.verify import verify_column

RENDER = ("test-00000-of-00001", "train-00000-of-00002", "train-00001-of-00002")
Contents = Callable[[Path], dict[str, bytes]]


@pytest.fixture
def collection(verified_run: tuple[Path, Path]) -> Collection:
    return open_collection(*verified_run)


@pytest.fixture
def memory() -> Iterator[str]:
    yield "memory://published/heads"
    system = fsspec.filesystem("memory")
    if system.exists("/published"):
        system.rm("/published", recursive=True)


def flip(path: Path, at: int = 700) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_layout_is_the_hubs_and_verifies(
    collection: Collection, tmp_path: Path, contents: Contents
) -> None:
    assert publish(collection, open_place(str(tmp_path / "hub")), "mit") == 6
    names = contents(tmp_path / "hub")
    expected = {"README.md", "plan.parquet"}
    for column in ("render", "style-statue"):
        expected |= {f"{column}/wids.json", f"pictures/sheet-{column}.webp"}
        expected |= {f"{column}/{n}.{e}" for n in RENDER for e in ("tar", "idx", "parquet")}
        assert not verify_column(tmp_path / "hub" / column)
    assert set(names) == expected
    wids = json.loads(names["render/wids.json"])
    assert [shard["url"] for shard in wids["shardlist"]] == [f"{name}.tar" for name in RENDER]
    plan = pq.read_table(tmp_path / "hub" / "plan.parquet")
    assert sorted(set(plan["shard"].to_pylist())) == list(RENDER)
    for shard, key in zip(plan["shard"].to_pylist(), plan["key"].to_pylist(), strict=True):
        assert key in Column(tmp_path / "hub" / "render", [shard])


@pytest.mark.parametrize(("column", "streaming"), [("render", True), ("style-statue", False)])
def test_datasets_loads_it_by_name(
    collection: Collection,
    column: str,
    streaming: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    publish(collection, open_place(str(tmp_path / "hub")), None)
    options = {"streaming": streaming, "cache_dir": str(tmp_path / "cache")}
    loaded = datasets.load_dataset(str(tmp_path / "hub"), column, **options)
    assert {split: len(list(rows)) for split, rows in loaded.items()} == {"train": 3, "test": 1}
    source = Column(collection.path / column)
    for row in loaded["train"]:
        sample = source.read(row["__key__"])
        assert np.array_equal(np.asarray(row["view_00.rgb.png"]), sample["view_00.rgb.png"])
        assert ("reference_00.rgb.png" in row) == (column != "render")


def test_webdataset_streams_it(collection: Collection, tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    publish(collection, open_place(str(tmp_path / "hub")), None)
    tars = sorted(str(path) for path in (tmp_path / "hub" / "render").glob("train-*.tar"))
    source = Column(collection.path / "render")
    samples = list(webdataset.WebDataset(tars, shardshuffle=False))
    assert len(samples) == 3
    for sample in samples:
        members = {name: data for name, data in sample.items() if name[:2] != "__"}
        assert members == source.read(sample["__key__"], decoded=False)


def test_memory_gets_what_a_folder_gets(
    collection: Collection, memory: str, tmp_path: Path, contents: Contents
) -> None:
    publish(collection, open_place(str(tmp_path / "hub")), None)
    assert publish(collection, open_place(memory), None) == 6
    system = fsspec.filesystem("memory")
    stored = {p.removeprefix("/published/heads/"): system.cat(p) for p in system.find("/published")}
    assert stored == contents(tmp_path / "hub")
    assert publish(collection, open_place(memory), None) == 0
    system.pipe("/published/heads/render/train-00000-of-00002.tar", b"short")
    assert publish(collection, open_place(memory), None) == 1


@pytest.mark.parametrize("place", ["folder", "memory"])
def test_an_interrupted_one_goes_on_and_the_card_is_last(
    collection: Collection, place: str, memory: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, contents: Contents,
) -> None:  # fmt: skip
    where = open_place(memory if place == "memory" else str(tmp_path / "hub"))
    publish(collection, where, "mit")
    whole = {name: where.read(name) for name in ("README.md", "render/wids.json")}
    for extension in ("tar", "parquet"):
        where.remove(f"style-statue/train-00000-of-00002.{extension}")
        where.remove(f"style-statue/train-00001-of-00002.{extension}")
    real, copied = type(where).copy_tar, []

    def killed(self, source, name, commit):  # type: ignore[no-untyped-def]
        if copied:
            raise KeyboardInterrupt
        copied.append(name)
        real(self, source, name, commit)

    monkeypatch.setattr(type(where), "copy_tar", killed)
    with pytest.raises(KeyboardInterrupt):
        publish(collection, where, "mit")
    assert "README.md" not in where.names()
    monkeypatch.setattr(type(where), "copy_tar", real)
    assert publish(collection, where, "mit") == 1
    assert publish(collection, where, "mit") == 0
    assert {name: where.read(name) for name in whole} == whole


def test_damage_at_the_destination_is_mended(collection: Collection, tmp_path: Path) -> None:
    place = open_place(str(tmp_path / "hub"))
    publish(collection, place, None)
    flip(tmp_path / "hub" / "render" / f"{RENDER[0]}.tar")
    (tmp_path / "hub" / "render" / f"{RENDER[1]}.idx").unlink()
    assert publish(collection, place, None) == 2
    assert not verify_column(tmp_path / "hub" / "render")


def test_the_card_follows_the_licence(collection: Collection, tmp_path: Path) -> None:
    place = open_place(str(tmp_path / "hub"))
    publish(collection, place, "mit")
    assert publish(collection, place, "cc-by-4.0") == 0
    assert "license: cc-by-4.0" in (tmp_path / "hub" / "README.md").read_text()


@pytest.mark.parametrize("target", ["folder", "link", "memory"])
def test_a_flipped_byte_is_refused(
    collection: Collection, target: str, memory: str, tmp_path: Path
) -> None:
    flip(collection.path / "render" / "train-00001.tar")
    url = memory if target == "memory" else str(tmp_path / "hub")
    place = open_place(url, link=target == "link")
    with pytest.raises(PipelineError, match=r"render/train-00001\.tar: sha256 differs .* verify"):
        publish(collection, place, None)
    names = place.names("render")
    assert f"{RENDER[1]}.tar" in names  # the shards before
    assert not [name for name in names if RENDER[2] in name]
    assert "README.md" not in place.names()


def test_links_share_their_bytes(collection: Collection, tmp_path: Path) -> None:
    publish(collection, open_place(str(tmp_path / "hub"), link=True), None)
    for name, source in zip(RENDER, ("test-00000", "train-00000", "train-00001"), strict=True):
        tar = tmp_path / "hub" / "render" / f"{name}.tar"
        assert tar.samefile(collection.path / "render" / f"{source}.tar")
    assert publish(collection, open_place(str(tmp_path / "hub")), None) == 0


def test_what_else_is_there_is_not_touched(collection: Collection, tmp_path: Path) -> None:
    hub = tmp_path / "hub"
    (hub / "render").mkdir(parents=True)
    place = open_place(str(hub))
    old = hub / "render" / "train-00000-of-00009.tar"
    old.write_bytes(b"old")
    with pytest.raises(PipelineError, match=r"of-00009\.tar: of a column or a number of shards"):
        publish(collection, place, None)
    old.unlink()
    (hub / "README.md").write_text("# mine")
    with pytest.raises(PipelineError, match=r"README\.md: not written by publish"):
        publish(collection, place, None)
    (hub / "README.md").write_text("<!-- published by diffstyle360: another -->")
    with pytest.raises(PipelineError, match=r"README\.md: another data set's"):
        publish(collection, place, None)
    assert os.listdir(hub / "render") == []
    with pytest.raises(PipelineError, match="is what is to be published"):
        publish(collection, open_place(str(collection.path)), None)


def test_a_full_disk_is_told_before_anything_is_written(
    collection: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(PipelineError, match=r"hub: needs 0\.\d\d GB, 0\.00 GB are free"):
        publish(collection, open_place(str(tmp_path / "hub")), None)
    assert not (tmp_path / "hub").exists()
    assert publish(collection, open_place(str(tmp_path / "hub"), link=True), None) == 6


def test_pictures_of_the_report_are_taken(collection: Collection, tmp_path: Path) -> None:
    kept = collection.path / "pictures"
    kept.mkdir()
    for name in ("sheet-render", "turntable-test-00000000", "turntable-train-00000000"):
        (kept / f"{name}.webp").write_bytes(name.encode())
    publish(collection, open_place(str(tmp_path / "hub")), None)
    shown = {path.stem for path in (tmp_path / "hub" / "pictures").iterdir()}
    assert shown == {"sheet-render", "sheet-style-statue", "turntable-test-00000000"}
    assert (tmp_path / "hub" / "pictures" / "sheet-render.webp").read_bytes() == b"sheet-render"


def test_columns_of_a_folder_are_published_too(columns: Path, tmp_path: Path) -> None:
    collection = open_collection(columns, Path("runs"))
    publish(collection, Folder(tmp_path / "hub"), None)
    card = (tmp_path / "hub" / "README.md").read_text()
    assert "| render | train | 2 | 5 | 1 |" in card
    assert "| render | non_finite | 1 | train-00000001 |" in card
    assert not verify_column(tmp_path / "hub" / "stylized-ink")
    published = Column(tmp_path / "hub" / "render")
    key = published.keys[0]
    assert decode("json", published.read(key, decoded=False)["json"])["key"] == key
    assert module.README in os.listdir(tmp_path / "hub")
