"""Every planted fault must be found, told from the others, and named."""

import os
import shutil
import tarfile

import numpy as np
import pyarrow.parquet as pq
import pytest

from manifests.schemas import VERSION_KEY
from pipeline.shards import codecs
from pipeline.shards.indexes import write_wids
from pipeline.shards.verify import verify_column, verify_shard

NAME = "train-00001"
KEYS = [f"train-{i:08d}" for i in (3, 4, 5)]


def kinds(findings):
    return {finding.kind for finding in findings}


@pytest.mark.parametrize("deep", [True, False])
def test_whole_columns_have_no_findings(column, deep):
    write_wids(column)
    expected = [f"train-{i:08d}" for i in range(6)]
    assert verify_column(column, expected, deep) == []
    assert verify_shard(column, NAME, deep) == []


def test_a_shard_of_failures_only_is_whole(tmp_path, write_shard):
    write_shard(tmp_path, NAME, range(2), failed=(0, 1))
    assert verify_shard(tmp_path, NAME) == []


@pytest.mark.parametrize("depth", ["png16", "npy"])
def test_forged_shards_without_a_fault_are_whole(tmp_path, make_sample, forge_shard, depth):
    forge_shard(
        tmp_path, NAME, [(key, make_sample(key, int(key[-1]), depth=depth)) for key in KEYS]
    )
    assert verify_shard(tmp_path, NAME) == []


# --- bytes changed after the commit ------------------------------------------------------------


def flip(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 0x20
    path.write_bytes(content)


def members_of(tar):
    with tarfile.open(tar) as opened:
        return opened.getmembers()


@pytest.mark.parametrize("field", [0, 60, 100, 108, 124, 136, 148, 156, 257, 300, 500])
def test_a_flip_in_a_header_is_found(column, field):
    tar = column / f"{NAME}.tar"
    member = members_of(tar)[8]  # view_00.depth of the second sample
    flip(tar, member.offset + field)
    findings = verify_shard(column, NAME)
    assert kinds(findings) == {"corrupt"}
    assert str(findings[0]).startswith(f"render/{NAME}.tar: {KEYS[1]}")
    assert "sha256 differs (" in findings[0].what


def test_a_flip_anywhere_in_the_tar_is_found(column):
    tar = column / f"{NAME}.tar"
    whole = tar.read_bytes()
    for position in np.random.RandomState(0).randint(0, len(whole), 60):
        flip(tar, int(position))
        assert kinds(verify_shard(column, NAME)) == {"corrupt"}, f"byte {position}"
        tar.write_bytes(whole)


def test_a_flip_in_an_image_names_it(column):
    tar = column / f"{NAME}.tar"
    member = next(m for m in members_of(tar) if m.name == f"{KEYS[1]}.view_01.rgb.png")
    flip(tar, member.offset_data + member.size - 25)  # the checksum that ends the pixels
    assert [str(finding) for finding in verify_shard(column, NAME)] == [
        f"render/{NAME}.tar: {KEYS[1]}.view_01.rgb.png: sha256 differs (damaged in its IDAT chunk)"
    ]


def test_a_flip_that_still_decodes_names_the_sample(column):
    tar = column / f"{NAME}.tar"
    flip(tar, tar.read_bytes().index(b'"source":"demo"') + 11)
    assert [str(finding) for finding in verify_shard(column, NAME)] == [
        f"render/{NAME}.tar: {KEYS[0]}: sha256 differs (every member still decodes)"
    ]


def test_a_cut_at_or_near_every_member_is_found(column):
    tar = column / f"{NAME}.tar"
    whole = tar.read_bytes()
    cuts = {member.offset + by for member in members_of(tar) for by in (-1, 0, 1, 512)}
    end = members_of(tar)[-1]
    cuts |= {end.offset_data + end.size, len(whole) - 512, len(whole) - 1}
    for cut in sorted(cuts - {-1}):
        tar.write_bytes(whole[:cut])
        for deep in (True, False):
            findings = verify_shard(column, NAME, deep)
            assert kinds(findings) == {"corrupt"}, f"cut at {cut}"
            assert f"{cut} bytes, {len(whole)} were committed" in findings[0].what
        tar.write_bytes(whole)


def test_an_index_flipped_at_any_byte_is_found(column):
    idx = column / f"{NAME}.idx"
    for position in range(0, idx.stat().st_size, 13):
        flip(idx, position)
        assert kinds(verify_shard(column, NAME)) == {"corrupt"}, f"byte {position}"
        flip(idx, position)
    assert verify_shard(column, NAME) == []


def test_a_parquet_flipped_at_some_bytes_is_found(column):
    parquet = column / f"{NAME}.parquet"
    for position in range(0, parquet.stat().st_size, 97):
        flip(parquet, position)
        assert kinds(verify_shard(column, NAME)) <= {"corrupt"}, f"byte {position}"
        assert verify_shard(column, NAME), f"byte {position}"
        flip(parquet, position)
    assert verify_shard(column, NAME) == []


@pytest.mark.parametrize("deep", [True, False])
@pytest.mark.parametrize("extension", ["tar", "idx", "parquet"])
def test_a_file_gone_is_missing(column, extension, deep):
    (column / f"{NAME}.{extension}").unlink()
    findings = verify_shard(column, NAME, deep)
    assert kinds(findings) == {"missing"}
    assert findings[0].where == f"render/{NAME}.{extension}"


def swap_samples(column):
    tar = column / f"{NAME}.tar"
    rows = pq.read_table(column / f"{NAME}.parquet").to_pylist()
    content = tar.read_bytes()
    parts = [content[r["offset"] : r["offset"] + r["size"]] for r in rows]
    tar.write_bytes(parts[1] + parts[0] + parts[2] + content[sum(map(len, parts)) :])


def double_a_sample(column):
    tar = column / f"{NAME}.tar"
    row = pq.read_table(column / f"{NAME}.parquet").to_pylist()[0]
    content = tar.read_bytes()
    tar.write_bytes(content[: row["size"]] + content)


def swap_members(column):
    tar = column / f"{NAME}.tar"
    _, second, third = members_of(tar)[:3]
    content = tar.read_bytes()
    a, b = content[: second.offset], content[second.offset : third.offset]
    tar.write_bytes(b + a + content[third.offset :])


def newer_schema(column):
    path = column / f"{NAME}.parquet"
    table = pq.read_table(path)
    newer = table.schema.metadata | {VERSION_KEY: b"99"}
    pq.write_table(table.replace_schema_metadata(newer), path)


def edit_row(column):
    path = column / f"{NAME}.parquet"
    table = pq.read_table(path)
    rows = table.to_pylist()
    rows[1]["status"] = "NonFinite"
    pq.write_table(table.from_pylist(rows, schema=table.schema), path)


CHANGES = {
    "two samples swapped": (swap_samples, "belongs to another sample"),
    "a sample doubled": (double_a_sample, "bytes, "),
    "two members swapped": (swap_members, f"{KEYS[0]}: sha256 differs"),
    "a newer schema": (newer_schema, "schema version 99, this program reads 1"),
    "a row edited": (edit_row, "changed after the commit"),
    "bytes appended": (
        lambda column: (column / f"{NAME}.tar").open("ab").write(b"x"),
        "were committed",
    ),
    "zeros appended": (
        lambda column: (column / f"{NAME}.tar").open("ab").write(bytes(10240)),
        "were committed",
    ),
    "a Parquet of another tar": (
        lambda column: shutil.copy(column / "train-00000.parquet", column / f"{NAME}.parquet"),
        "belongs to another sample",
    ),
    "an index of another tar": (
        lambda column: shutil.copy(column / "train-00000.idx", column / f"{NAME}.idx"),
        "differs from what the tar says",
    ),
    "an empty tar": (lambda column: os.truncate(column / f"{NAME}.tar", 0), "ends before"),
    "an empty Parquet": (lambda column: os.truncate(column / f"{NAME}.parquet", 0), "not readable"),
    "an empty index": (lambda column: os.truncate(column / f"{NAME}.idx", 0), "differs from"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_was_changed_after_the_commit_is_corrupt(column, change):
    harm, what = CHANGES[change]
    harm(column)
    findings = verify_shard(column, NAME)
    assert kinds(findings) == {"corrupt"}
    assert any(what in str(finding) for finding in findings)
    assert not any("\n" in str(finding) for finding in findings)


def test_many_findings_are_counted(column, write_shard, tmp_path):
    write_shard(tmp_path / "other", NAME, range(20, 40))
    write_shard(column, NAME, range(40, 60))
    shutil.copy(tmp_path / "other" / f"{NAME}.parquet", column)
    findings = verify_shard(column, NAME)
    assert len(findings) == 9
    assert "more findings" in findings[-1].what
    assert "train-00000020" in findings[0].where + findings[1].where


# --- between the shards of a column ------------------------------------------------------------


def test_missing_and_unasked_keys_are_named(column):
    expected = [f"train-{i:08d}" for i in (0, 1, 2, 3, 4, 6, 7)]
    lines = [str(finding) for finding in verify_column(column, expected)]
    assert lines == [
        "render: train-00000006 and 1 more: neither ok nor failed",
        "render: train-00000005: not asked for",
    ]


def test_an_uncommitted_shard_is_missing_its_keys(column):
    (column / f"{NAME}.parquet").unlink()
    findings = verify_column(column, [f"train-{i:08d}" for i in range(6)])
    assert [str(finding) for finding in findings] == [
        f"render/{NAME}.parquet: not there; make the shard again",
        "render: train-00000003 and 2 more: neither ok nor failed",
    ]


def test_findings_do_not_depend_on_the_workers(column):
    flip(column / "train-00000.tar", 600)
    flip(column / f"{NAME}.tar", 600)
    alone, together = (verify_column(column, workers=workers) for workers in (1, 3))
    assert alone == together
    assert [finding.where[:23] for finding in alone] == [
        "render/train-00000.tar:",
        "render/train-00001.tar:",
    ]


def test_a_shard_in_two_places_is_found(column):
    for extension in ("tar", "idx", "parquet"):
        shutil.copy(column / f"{NAME}.{extension}", column / f"train-00002.{extension}")
    findings = verify_column(column)
    assert [str(finding) for finding in findings] == [
        "render: train-00000003 and 2 more: in more than one place"
    ]


def test_shards_with_other_members_or_sizes_are_found(column, make_sample, forge_shard):
    key = "train-00000009"
    forge_shard(column, "train-00002", [(key, make_sample(key, 9, views=3))])
    small = make_sample(key := "train-00000008", 8, edit=lambda meta: meta.update(resolution=4))
    for view in ("view_00", "view_01"):
        small[f"{view}.rgb.png"] = codecs.encode_rgb(np.zeros((4, 4, 3), np.uint8), "png")
    forge_shard(column, "train-00003", [(key, small)])
    findings = verify_column(column)
    assert [str(finding) for finding in findings] == [
        "render/train-00002.tar: members differ from those of train-00000.tar",
        "render/train-00003.tar: image sizes differ from those of train-00000.tar",
    ]


def test_a_stale_wids_index_is_found(column, write_shard):
    write_wids(column)
    write_shard(column, "train-00002", range(7, 9))
    assert [str(finding) for finding in verify_column(column)] == [
        "render/wids.json: does not describe the shards here; write it again"
    ]
    (column / "train-00002.parquet").write_bytes(b"PAR1")
    assert [finding.where for finding in verify_column(column)] == [
        "render/train-00002.parquet",
        "render/wids.json",
    ]


def test_an_empty_folder_has_no_shard(tmp_path):
    assert [str(finding) for finding in verify_column(tmp_path)] == [
        f"{tmp_path.name}: no shard here"
    ]
