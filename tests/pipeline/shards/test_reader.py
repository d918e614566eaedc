import os
import pickle
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.shards import ShardError, codecs
from pipeline.shards.reader import Column, epoch_order, read_clip, zip_columns
from pipeline.shards.writer import ShardWriter

KEYS = [f"train-{i:08d}" for i in (0, 2, 3, 4, 5)]


def test_keys_are_the_samples_that_were_made(column):
    reader = Column(column)
    assert reader.keys == KEYS
    assert len(reader) == 5
    assert "train-00000001" not in reader


@pytest.mark.parametrize("key", KEYS)
def test_a_sample_comes_back_as_written(column, make_sample, key):
    reader = Column(column)
    members = make_sample(key, int(key[-1]))
    assert reader.read(key, decoded=False, check=True) == members
    assert list(reader.read(key, decoded=False)) == list(members)
    decoded = reader.read(key)
    assert decoded["json"]["key"] == key
    assert decoded["view_01.depth.png"].dtype == np.uint16


def test_members_are_chosen_with_or_without_extension(column):
    reader = Column(column)
    found = reader.read(KEYS[0], ["view_01.rgb", "json", "view_00.mask.png"])
    assert list(found) == ["view_00.mask.png", "view_01.rgb.png", "json"]
    with pytest.raises(ShardError, match=r"train-00000000.view_07.rgb: no such member"):
        reader.read(KEYS[0], ["view_07.rgb"])


def test_only_the_members_asked_for_are_decoded(column, monkeypatch):
    decoded = []
    monkeypatch.setattr("pipeline.shards.reader.decode", lambda name, data: decoded.append(name))
    Column(column).read(KEYS[1], ["view_01.rgb"])
    assert decoded == [f"{KEYS[1]}.view_01.rgb.png"]


def test_a_clip_stacks_views_in_the_order_asked(column, make_sample):
    members = make_sample(KEYS[2], 3)
    views = [codecs.decode("a.png", members[f"view_{i:02d}.rgb.png"]) for i in (1, 0, 1)]
    clip = read_clip(Column(column), KEYS[2], [1, 0, 1])  # [V, H, W, 3]
    assert clip.shape == (3, 8, 8, 3)
    assert np.array_equal(clip, np.stack(views))
    assert read_clip(Column(column), KEYS[2], [0], "mask").shape == (1, 4, 4)


def test_a_sample_is_one_read(column, monkeypatch):
    reads = []
    pread = os.pread

    def counted(file, size, offset):
        reads.append((size, offset))
        return pread(file, size, offset)

    monkeypatch.setattr(os, "pread", counted)
    Column(column).read(KEYS[1], check=True)
    assert len(reads) == 1


def test_columns_are_shared_by_threads_and_processes(column):
    reader = Column(column)
    expected = {key: reader.read(key, decoded=False) for key in KEYS}
    again = pickle.loads(pickle.dumps(reader))
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda key: again.read(key, decoded=False), KEYS * 20))
    assert results == [expected[key] for key in KEYS * 20]


def test_columns_are_zipped_on_the_keys_all_have(column, tmp_path, write_shard):
    write_shard(tmp_path / "style", "train-00000", range(3), failed=(0,))
    write_shard(tmp_path / "style", "train-00001", range(3, 6), failed=(4,))
    columns = [Column(column), Column(tmp_path / "style")]
    assert zip_columns(columns) == ["train-00000002", "train-00000003", "train-00000005"]
    assert zip_columns(columns[:1]) == KEYS


def test_a_folder_without_shards_is_refused(tmp_path):
    with pytest.raises(ShardError, match="no committed shard"):
        len(Column(tmp_path))


def test_a_key_in_two_shards_is_refused(column, write_shard):
    write_shard(column, "train-00002", range(3, 4))
    with pytest.raises(ShardError, match="twice"):
        Column(column).read(KEYS[0])


def test_a_key_that_is_not_there_is_named(column):
    with pytest.raises(ShardError, match="no sample train-00000001"):
        Column(column).read("train-00000001")


def _damage(path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 0xFF
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("harm", "what"),
    [
        (lambda tar: os.truncate(tar, 3000), "train-00000003: cut off"),
        (lambda tar: os.truncate(tar, 0), "train-00000003: cut off"),
        (lambda tar: tar.unlink(), "train-00000003: cannot read"),
        (lambda tar: _damage(tar, 100), "train-00000003.view_00.rgb.png: header differs"),
        (lambda tar: _damage(tar, 512 + 80), "train-00000003.view_00.rgb.png: damaged in its IDAT"),
    ],
)
def test_damage_met_while_reading_is_named(column, harm, what):
    reader = Column(column)
    assert reader.keys
    harm(column / "train-00001.tar")
    with pytest.raises(ShardError, match=what) as caught:
        reader.read(KEYS[2])
    assert str(caught.value).startswith("render/train-00001.tar: ")


def test_a_changed_byte_that_decodes_is_found_by_check(column):
    tar = column / "train-00001.tar"
    position = tar.read_bytes().index(b'"source":"demo"') + 11
    _damage(tar, position)
    with pytest.raises(ShardError, match="train-00000003: sha256 differs"):
        Column(column).read(KEYS[2], ["view_00.rgb"], check=True)
    assert list(Column(column).read(KEYS[2], ["view_00.rgb"])) == ["view_00.rgb.png"]


@given(st.integers(1, 40), st.integers(1, 9), st.integers(0, 3), st.integers(0, 3))
def test_ranks_share_an_epoch_evenly(count, world, seed, epoch):
    keys = [f"k{i}" for i in range(count)]
    whole = epoch_order(keys, seed, epoch)
    assert sorted(whole) == sorted(keys)
    ranks = [epoch_order(keys[::-1], seed, epoch, rank, world) for rank in range(world)]
    assert len({len(order) for order in ranks}) == 1
    together = [key for step in zip(*ranks, strict=True) for key in step]
    assert together[:count] == whole  # in step order the ranks walk the one-rank order
    assert max(Counter(together).values()) - min(Counter(together).values()) <= 1


def test_epochs_and_seeds_shuffle_differently():
    orders = {tuple(epoch_order(KEYS, seed, epoch)) for seed in range(4) for epoch in range(4)}
    assert len(orders) > 10
    with pytest.raises(ShardError, match="no samples"):
        epoch_order([], 0, 0)


def test_reading_needs_no_torch():
    code = (
        "import sys, pipeline.shards.reader, pipeline.shards.verify; print('torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


def test_a_shard_in_which_all_failed_holds_no_key(tmp_path, make_sample):
    for name, key in (("train-00000", KEYS[0]), ("train-00001", KEYS[1])):
        with ShardWriter(tmp_path, name, {}) as shard:
            if key == KEYS[0]:
                shard.fail(key, "non_finite", "view 0", seed=1, split="train")
            else:
                shard.add(key, make_sample(key, 1), seed=1, split="train", seconds=1.0)
    assert Column(tmp_path).keys == [KEYS[1]]


def test_samples_come_by_number_of_shard_beyond_five_digits(column):
    for extension in ("tar", "idx", "parquet"):
        (column / f"train-00000.{extension}").rename(column / f"train-99999.{extension}")
        (column / f"train-00001.{extension}").rename(column / f"train-100000.{extension}")
    assert Column(column).keys == KEYS
