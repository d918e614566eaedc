import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.datasets.columns import list_shards, read_rows
from pipeline.datasets.reshard import Cut, draw_split, reshard
from pipeline.errors import PipelineError
from pipeline.shards import ShardError
from pipeline.shards.codecs import decode
from pipeline.shards.reader import Column
from pipeline.shards.verify import verify_column
from tests.pipeline.datasets.conftest import write_column


@given(
    seeds=st.lists(st.integers(0, 99), min_size=1, max_size=9, unique=True).map(sorted),
    failed=st.sets(st.integers(0, 99)),
    first=st.integers(1, 5),
    second=st.integers(1, 5),
)
@settings(max_examples=12, deadline=None)
def test_any_cut_then_back_gives_the_same_files(
    seeds: list[int], failed: set[int], first: int, second: int
) -> None:
    with tempfile.TemporaryDirectory() as base:
        shards = {
            f"train-{at // first:05d}": seeds[at : at + first] for at in range(0, len(seeds), first)
        }
        column = write_column(Path(base) / "a" / "render", shards, failed)
        reshard([column], Path(base) / "b", Cut(identities=second))
        assert not verify_column(Path(base) / "b" / "render")
        reshard([Path(base) / "b" / "render"], Path(base) / "c", Cut(identities=first))
        for path in column.iterdir():
            assert (Path(base) / "c" / "render" / path.name).read_bytes() == path.read_bytes()


def test_columns_are_cut_alike_and_keep_their_splits(columns: Path, tmp_path: Path) -> None:
    named = [columns / "render", columns / "stylized-ink"]
    made = reshard(named, tmp_path / "out", Cut(identities=4))
    assert made == {
        "train": ["train-00000", "train-00001"], "test": ["test-00000"]
    }  # fmt: skip
    out = tmp_path / "out" / "render"
    assert list_shards(out) == ["test-00000", "train-00000", "train-00001"]
    assert list_shards(tmp_path / "out" / "stylized-ink") == ["test-00000"]
    assert read_rows(out, ["train-00000"])["key"].to_pylist()[-1] == "train-00000003"
    for name in ("render", "stylized-ink"):
        assert not verify_column(tmp_path / "out" / name)
        before, after = Column(columns / name), Column(tmp_path / "out" / name)
        assert sorted(before.keys) == sorted(after.keys)
        for key in before.keys:
            assert before.read(key, decoded=False) == after.read(key, decoded=False)


def test_failed_rows_are_carried_along(columns: Path, tmp_path: Path) -> None:
    reshard([columns / "render"], tmp_path / "out", Cut(identities=2))
    [row] = read_rows(tmp_path / "out" / "render", ["train-00000"]).to_pylist()[1:]
    assert (row["key"], row["status"], row["message"]) == (
        "train-00000001", "non_finite", "image: a NaN"
    )  # fmt: skip
    assert row["seed"] == 1


def test_no_tar_is_larger_than_asked(tmp_path: Path) -> None:
    shards = {"train-00000": range(20)}
    one = write_column(tmp_path / "a" / "render", shards)
    two = write_column(tmp_path / "a" / "style", shards, views=4)
    reshard([one, two], tmp_path / "b", Cut(size=40_960))
    tars = {name: sorted((tmp_path / "b" / name).glob("*.tar")) for name in ("render", "style")}
    assert [path.name for path in tars["render"]] == [path.name for path in tars["style"]]
    assert max(path.stat().st_size for path in tars["style"]) <= 40_960 < 20 * 40_960
    assert len(tars["style"]) > 2
    reshard([two], tmp_path / "c", Cut(size=1))
    assert len(list((tmp_path / "c" / "style").glob("*.tar"))) == 20  # one sample at least


def test_splits_follow_from_the_key_alone(tmp_path: Path) -> None:
    shares = (("train", 0.5), ("val", 0.25), ("test", 0.25))
    forth = write_column(tmp_path / "a" / "render", {"train-00000": range(24)})
    back = {"train-00000": [*range(23, 11, -1)], "train-00001": [*range(11, -1, -1)]}
    write_column(tmp_path / "b" / "render", back)
    splits = {}
    for name, column in (("c", forth), ("d", tmp_path / "b" / "render")):
        reshard([column], tmp_path / name, Cut(identities=5, shares=shares))
        made = tmp_path / name / "render"
        assert not verify_column(made)
        rows = read_rows(made, list_shards(made)).to_pylist()
        assert len(rows) == 24
        splits[name] = {row["key"]: row["split"] for row in rows}
        assert all(row["shard"].startswith(row["split"]) for row in rows)
    assert splits["c"] == splits["d"]
    assert set(splits["c"].values()) == {"train", "val", "test"}
    before, after = Column(forth), Column(tmp_path / "c" / "render")
    for key, split in splits["c"].items():
        old, new = before.read(key, decoded=False), after.read(key, decoded=False)
        meta = decode("json", old.pop("json")) | {"split": split}
        assert decode("json", new.pop("json")) == meta
        assert old == new


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5))
@settings(max_examples=20, deadline=None)
def test_shares_are_met(weights: list[int]) -> None:
    shares = [(f"s{i}", weight / sum(weights)) for i, weight in enumerate(weights)]
    drawn = [draw_split(f"train-{i:08d}", shares) for i in range(2000)]
    for name, share in shares:
        assert abs(drawn.count(name) / 2000 - share) < 0.05


def test_a_killed_one_goes_on(
    columns: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    contents: Callable[[Path], dict[str, bytes]],
) -> None:  # fmt: skip
    from pipeline.datasets import reshard as module

    reshard([columns / "render"], tmp_path / "whole", Cut(identities=2))
    written: list[str] = []
    real = module.rewrite_shard

    def killed(source, target, name, *rest):  # type: ignore[no-untyped-def]
        if len(written) == 2:
            raise KeyboardInterrupt
        real(source, target, name, *rest)
        written.append(name)

    monkeypatch.setattr(module, "rewrite_shard", killed)
    with pytest.raises(KeyboardInterrupt):
        reshard([columns / "render"], tmp_path / "out", Cut(identities=2))
    assert len(list((tmp_path / "out" / "render").glob("*.parquet"))) == 2
    monkeypatch.setattr(module, "rewrite_shard", real)
    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / "out" / "render").glob("*.tar")}
    reshard([columns / "render"], tmp_path / "out", Cut(identities=2))
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())


def test_what_cannot_be_is_refused(
    columns: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut, render = Cut(identities=2), columns / "render"
    with pytest.raises(PipelineError, match=r"holds .*render itself"):
        reshard([render], columns, cut)
    with pytest.raises(PipelineError, match="two columns have one name"):
        reshard([render, render], tmp_path / "out", cut)
    other = write_column(tmp_path / "other" / "style", {"train-00000": [0, 1, 9]})
    with pytest.raises(PipelineError, match=r"style: does not zip with render.*train-00000009"):
        reshard([render, other], tmp_path / "out", cut)
    short = write_column(tmp_path / "short" / "style", {"train-00000": [0, 1, 2]})
    with pytest.raises(PipelineError, match=r"style: does not zip with render.*train-00000003"):
        reshard([render, short], tmp_path / "out", cut)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(PipelineError, match="not empty"):
        reshard([render], tmp_path / "full", cut)
    reshard([render], tmp_path / "out", cut)
    with pytest.raises(PipelineError, match="another resharding: its identities differs"):
        reshard([render], tmp_path / "out", Cut(identities=3))
    with pytest.raises(PipelineError, match=r"shares add up to 0\.9"):
        reshard([render], tmp_path / "new", Cut(shares=(("a", 0.5), ("b", 0.4))))
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10}))
    with pytest.raises(PipelineError, match=r"needs 0\.00 GB, 0\.00 GB are free"):
        reshard([render], tmp_path / "small", cut)


def test_a_damaged_source_is_refused_and_leaves_no_shard(columns: Path, tmp_path: Path) -> None:
    tar = columns / "render" / "train-00001.tar"
    damaged = bytearray(tar.read_bytes())
    damaged[700] ^= 1
    tar.write_bytes(damaged)
    with pytest.raises(ShardError, match="train-00000003: sha256 differs"):
        reshard([columns / "render"], tmp_path / "out", Cut(identities=8))
    assert not list((tmp_path / "out" / "render").glob("*train*"))


def test_shards_of_two_makers_say_both(tmp_path: Path) -> None:
    from pipeline.shards.records import read_commit

    column = tmp_path / "a" / "render"
    for number, device in enumerate(("cpu", "cuda")):
        made = {"run": "1", "device": device}
        write_column(column, {f"train-{number:05d}": [number]}, provenance=made)
    reshard([column], tmp_path / "b", Cut(identities=2))
    record = tmp_path / "b" / "render" / "train-00000.parquet"
    mixed = {"run": "1", "mixed": [{"device": "cpu"}, {"device": "cuda"}]}
    assert read_commit(record).provenance == mixed
