import json
from pathlib import Path

import pytest

from pipeline.datasets.columns import list_shards, read_rows
from pipeline.datasets.merge import merge
from pipeline.errors import PipelineError
from pipeline.shards.codecs import decode
from pipeline.shards.reader import Column
from pipeline.shards.verify import verify_column
from tests.pipeline.datasets.conftest import SHARDS, write_column


def write_run(folder: Path, start: int = 0, **sample: object) -> Path:
    shards = {name: [start + seed for seed in seeds] for name, seeds in SHARDS.items()}
    write_column(folder / "render", shards, failed=[start + 1])
    write_column(folder / "stylized-ink", {"test-00000": shards["test-00000"]}, **sample)
    return folder


def test_three_runs_become_one_whose_columns_zip(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name, 100 * at) for at, name in enumerate("abc")]
    assert merge(runs, tmp_path / "out") == {"render": 9, "stylized-ink": 3}
    for name, total in (("render", 24), ("stylized-ink", 6)):
        column = tmp_path / "out" / name
        assert not verify_column(column)
        assert len(read_rows(column, list_shards(column))) == total
        assert len(json.loads((column / "wids.json").read_bytes())["shardlist"])
    for at, run in enumerate(runs):
        for extension in ("tar", "idx", "parquet"):  # copied as they are, numbered on
            for split, number in (("train", 2 * at), ("test", at)):
                old = run / "render" / f"{split}-00000.{extension}"
                new = tmp_path / "out" / "render" / f"{split}-{number:05d}.{extension}"
                assert new.read_bytes() == old.read_bytes()
    for shard in ("test-00000", "test-00001", "test-00002"):
        keys = [Column(tmp_path / "out" / c, [shard]).keys for c in ("render", "stylized-ink")]
        assert keys[0] == keys[1]


def test_equal_keys_need_a_prefix(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / f"{name}-0123456789") for name in ("anna", "bert")]
    with pytest.raises(PipelineError, match=r"bert-0123456789: t.* is also in .*anna.*--prefix"):
        merge(runs, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    merge(runs, tmp_path / "out", prefix=True)
    merged = Column(tmp_path / "out" / "render")
    assert not verify_column(merged.folder)
    for run in runs:
        source = Column(run / "render")
        for key in source.keys:
            new_key = f"{run.name.split('-')[0]}-{key}"
            old, new = (
                source.read(key, decoded=False),
                merged.read(new_key, decoded=False),
            )
            assert decode("json", new.pop("json"))["key"] == new_key
            old.pop("json")
            assert list(old.items()) == list(new.items())
    failed = [
        row["key"]
        for row in read_rows(merged.folder, list_shards(merged.folder)).to_pylist()
        if row["status"] != "ok"
    ]
    assert failed == ["anna-train-00000001", "bert-train-00000001"]


def test_runs_of_one_name_keep_their_hashes(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / f"heads-{digit * 10}") for digit in "12"]
    merge(runs, tmp_path / "out", columns=["render"], prefix=True)
    assert "heads-1111111111-train-00000000" in Column(tmp_path / "out" / "render")
    assert not (tmp_path / "out" / "stylized-ink").exists()
    twins = [write_run(tmp_path / folder / "heads") for folder in "xy"]
    with pytest.raises(PipelineError, match="two runs have one name"):
        merge(twins, tmp_path / "other", prefix=True)


def test_what_cannot_be_one_column_is_refused(tmp_path: Path) -> None:
    one, two = write_run(tmp_path / "one"), write_run(tmp_path / "two", 100, views=3)
    with pytest.raises(PipelineError, match=r"two/stylized-ink: samples are unlike.*view_02.rgb"):
        merge([one, two], tmp_path / "out")
    npy = tmp_path / "npy"
    write_column(npy / "render", {"train-00000": [300]}, depth="npy")
    with pytest.raises(PipelineError, match=r"depth\.\w+ is .*not there"):
        merge([one, npy], tmp_path / "out", columns=["render"])
    with pytest.raises(PipelineError, match="npy: has no column 'stylized-ink'"):
        merge([one, npy], tmp_path / "out")
    with pytest.raises(PipelineError, match="two runs or more"):
        merge([one], tmp_path / "out")
    with pytest.raises(PipelineError, match="given twice"):
        merge([one, one], tmp_path / "out")
    with pytest.raises(PipelineError, match="is one of the runs"):
        merge([one, two], one)
    with pytest.raises(PipelineError, match="no such folder"):
        merge([one, tmp_path / "nowhere"], tmp_path / "out")
    for path in (one / "render").glob("test-00000.*"):
        path.unlink()
    write_column(one / "render", {"test-00000": [6]})
    with pytest.raises(PipelineError, match=r"stylized-ink: does not zip.*test-00000007"):
        merge([one, write_run(tmp_path / "three", 200)], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_tar_without_its_record_is_refused(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name, 100 * at) for at, name in enumerate("ab")]
    (runs[1] / "render" / "train-00001.parquet").unlink()
    with pytest.raises(PipelineError, match=r"train-00001\.tar: has no \.parquet"):
        merge(runs, tmp_path / "out")


def test_a_flipped_byte_is_refused_and_the_rest_goes_on(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name, 100 * at) for at, name in enumerate("ab")]
    tar = runs[1] / "render" / "train-00000.tar"
    sound = tar.read_bytes()
    tar.write_bytes(sound[:900] + bytes([sound[900] ^ 1]) + sound[901:])
    with pytest.raises(PipelineError, match=r"b/render/train-00000\.tar: sha256 differs"):
        merge(runs, tmp_path / "out")
    made = tmp_path / "out" / "render"
    assert not (made / "train-00002.tar").exists()
    stamp = (made / "train-00000.tar").stat().st_mtime_ns
    tar.write_bytes(sound)
    merge(runs, tmp_path / "out")
    assert (made / "train-00000.tar").stat().st_mtime_ns == stamp
    assert not verify_column(made)
