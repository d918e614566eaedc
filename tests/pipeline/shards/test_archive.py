import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.shards import ShardError
from pipeline.shards.archive import BLOCK, end_archive, pack_header, pad, read_range, split_sample

SUFFIX = st.from_regex(r"[a-z0-9_-]{1,8}(\.[a-z0-9_-]{1,8}){0,2}", fullmatch=True)
MEMBERS = st.dictionaries(SUFFIX, st.binary(max_size=1200), min_size=1, max_size=5)


def pack(key: str, members: dict[str, bytes]) -> bytes:
    parts = [pack_header(key, s, len(d)) + d + pad(len(d)) for s, d in members.items()]
    return b"".join(parts)


def pack_with_tarfile(key: str, members: dict[str, bytes]) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for suffix, data in members.items():
            info = tarfile.TarInfo(f"{key}.{suffix}")
            info.size, info.mode = len(data), 0o444
            tar.addfile(info, io.BytesIO(data))
    return sink.getvalue()


@given(MEMBERS)
def test_bytes_are_those_of_the_standard_library(members):
    sample = pack("train-0", members)
    assert sample + end_archive(len(sample)) == pack_with_tarfile("train-0", members)


@given(MEMBERS)
def test_a_sample_splits_into_its_members(members):
    sample = pack("train-0", members)
    found = {m.suffix: sample[m.start : m.start + m.size] for m in split_sample(sample, "train-0")}
    assert found == members
    assert list(found) == list(members)


@given(MEMBERS, st.data())
def test_a_flipped_byte_outside_the_data_is_found(members, data):
    sample = bytearray(pack("train-0", members))
    inside = {
        i for m in split_sample(bytes(sample), "train-0") for i in range(m.start, m.start + m.size)
    }
    position = data.draw(st.sampled_from(sorted(set(range(len(sample))) - inside)))
    sample[position] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ShardError):
        split_sample(bytes(sample), "train-0")


@pytest.mark.parametrize(
    ("key", "suffix", "size"),
    [
        ("a.b", "json", 0),
        ("", "json", 0),
        ("../a", "json", 0),
        ("a", "", 0),
        ("a", ".json", 0),
        ("a", "x..json", 0),
        ("a", "view 1.png", 0),
        ("a", "JSON", 0),
        ("a", "../json", 0),
        ("a" * 96, "json", 0),
        ("a", "json", 8**11),
    ],
)
def test_names_and_sizes_that_do_not_fit_are_refused(key, suffix, size):
    with pytest.raises(ShardError):
        pack_header(key, suffix, size)


@pytest.mark.parametrize(
    ("edit", "what"),
    [
        (lambda info: setattr(info, "type", tarfile.SYMTYPE), "link"),
        (lambda info: setattr(info, "type", tarfile.DIRTYPE), "folder"),
        (lambda info: setattr(info, "name", "../a.json"), "another folder"),
        (lambda info: setattr(info, "name", "/a.json"), "another folder"),
        (lambda info: setattr(info, "name", "b.json"), "another sample"),
        (lambda info: setattr(info, "mtime", 1), "header differs"),
        (lambda info: setattr(info, "uid", 1), "header differs"),
        (lambda info: setattr(info, "mode", 0o755), "header differs"),
        (lambda info: setattr(info, "uname", "root"), "header differs"),
        (lambda info: setattr(info, "size", 1), "cut off"),
    ],
)
def test_foreign_headers_are_refused(edit, what):
    info = tarfile.TarInfo("a.json")
    info.mode = 0o444
    edit(info)
    with pytest.raises(ShardError, match=what):
        split_sample(info.tobuf(tarfile.USTAR_FORMAT), "a")


def test_what_is_no_tar_is_refused():
    with pytest.raises(ShardError, match="no tar header"):
        split_sample(bytes(BLOCK), "a")


def test_a_range_ends_where_the_file_ends(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(range(100)))
    with open(path, "rb") as file:
        assert read_range(file.fileno(), 10, 5) == bytes(range(10, 15))
        assert read_range(file.fileno(), 90, 10**15) == bytes(range(90, 100))
        assert read_range(file.fileno(), 200, 5) == b""
