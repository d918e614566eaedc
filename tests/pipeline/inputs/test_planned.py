"""What was listed comes back from the plan as it was, one shard or all."""

import os
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests import ManifestError
from manifests.bulk_plan import BULK_PLAN, list_shards, read_outline, read_plan, read_shards
from pipeline.inputs import planned
from pipeline.inputs.jobs import Job, Shards
from pipeline.inputs.planned import encode_plan, find_jobs, read_jobs
from pipeline.inputs.sources import Input, Source

CACHE = Path("elsewhere/.content")
TEXT = st.text(st.characters(codec="utf-8"), max_size=9)
PATHS = (
    st.binary(min_size=1, max_size=9).filter(lambda b: b"\0" not in b).map(os.fsdecode).map(Path)
)
SOURCES = st.builds(Source, PATHS, TEXT, st.integers(-1, 2**40), st.none() | st.integers(0, 2**50))
INPUTS = st.builds(
    Input,
    name=TEXT,
    origin=TEXT,
    views=st.lists(SOURCES, max_size=3).map(tuple),
    back=st.none() | SOURCES,
    cameras=st.none() | SOURCES,
    problem=st.none() | st.tuples(TEXT, TEXT),
    key=TEXT,
    column=st.none() | PATHS,
    count=st.integers(0, 720),
    shard=TEXT,
    split=TEXT,
    seed=st.none() | st.integers(0, 2**32 - 1),
    sha256=TEXT,
)
JOBS = st.builds(
    Job,
    key=TEXT,
    content=INPUTS,
    style=PATHS,
    presence=st.floats(0, 1),
    temperature=st.floats(0.01, 100),
    hint=st.sampled_from(["content", "camera"]),
    views=st.integers(0, 720),
    shard=st.just(""),
    split=TEXT,
    label=st.none() | TEXT,
)
NAMES = st.sampled_from(["stylized-ink", "stylized-ink.v4", "stylized"])
SHARDS = st.sampled_from(["train-00000", "train-00001", "test-00000"])


@st.composite
def plans(draw: st.DrawFn) -> dict[str, Shards]:
    places = st.lists(st.tuples(NAMES, SHARDS, JOBS), min_size=1, max_size=9)
    columns: dict[str, Shards] = defaultdict(dict)
    for column, shard, job in draw(places):
        columns[column].setdefault(shard, []).append(replace(job, shard=shard))
    return dict(columns)


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("planned") / "plan.parquet"


@settings(deadline=None, max_examples=50)
@given(plans(), st.integers(1, 3))
def test_plan_is_what_was_listed(plan: Path, columns: dict[str, Shards], group: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planned, "GROUP", group)
        plan.write_bytes(encode_plan(columns, "claimed", CACHE))
    names = {column: list(shards) for column, shards in columns.items()}
    assert read_shards(plan) == names
    assert read_outline(plan) == {
        column: (
            {shard: len(jobs) for shard, jobs in shards.items()},
            max(job.views for jobs in shards.values() for job in jobs),
        )
        for column, shards in columns.items()
    }
    assert list_shards(plan) == [f"{c}/{shard}" for c, shards in names.items() for shard in shards]
    assert read_jobs(plan, names) == (columns, "claimed")
    for column, shards in columns.items():
        for shard, jobs in shards.items():
            assert read_jobs(plan, {column: [shard]}) == ({column: {shard: jobs}}, "claimed")
            last = jobs[-1]
            assert find_jobs(plan, column, [last.key])[last.key].key == last.key


def test_plan_keeps_landmarks_where_there_are_any(plan: Path) -> None:
    """And has no column for them else: what was planned before they were known is the same."""
    beside = Source(Path("a.landmarks.json"), "a.landmarks.json", 90, 512)
    points = tuple((float(i), i + 0.1) for i in range(5))
    plain = Job("a", Input("a", "a"), Path("ink.png"), 1.0, 1.0, "camera", 4, "train-0", "train")
    beside_it = replace(plain, key="b", content=replace(plain.content, landmarks=beside))
    in_a_table = replace(plain, key="c", content=replace(plain.content, points=points))
    for jobs in ([plain, beside_it], [in_a_table, plain], [beside_it, in_a_table]):
        columns = {"stylized": {"train-0": jobs}}
        plan.write_bytes(encode_plan(columns, "c", CACHE))
        assert read_jobs(plan, {"stylized": ["train-0"]}) == (columns, "c")
        assert find_jobs(plan, "stylized", [jobs[0].key]) == {jobs[0].key: jobs[0]}
    plan.write_bytes(encode_plan({"stylized": {"train-0": [plain]}}, "c", CACHE))
    schema = pq.read_schema(plan).remove_metadata()
    assert schema == BULK_PLAN.remove_metadata()
    assert "landmarks" not in str(schema)


def test_the_same_plan_is_the_same_bytes(plan: Path) -> None:
    job = Job("a", Input("a", "a"), Path("ink.png"), 1.0, 1.0, "camera", 4, "train-00000", "train")
    columns = {"stylized-ink": {"train-00000": [job]}}
    assert encode_plan(columns, "c", CACHE) == encode_plan(columns, "c", CACHE)
    assert encode_plan(columns, "c", CACHE) != encode_plan(columns, "d", CACHE)


def test_a_shard_is_read_without_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 3 groups of rows, one."""
    monkeypatch.setattr(planned, "GROUP", 2)
    one = Input("a", "a")
    columns = {
        "stylized-ink": {
            f"train-{n:05d}": [
                Job(f"{n}-{i}", one, Path("x"), 1.0, 1.0, "camera", 2, f"train-{n:05d}", "train")
                for i in range(2)
            ]
            for n in range(3)
        }
    }
    path = tmp_path / "plan.parquet"
    path.write_bytes(encode_plan(columns, "c", CACHE))
    footer = pq.read_metadata(path)
    assert footer.num_row_groups == 3
    for group in range(3):
        statistics = footer.row_group(group).column(1).statistics
        assert (statistics.min, statistics.max) == (f"train-{group:05d}",) * 2


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "plan.parquet: no plan yet; run `diffstyle360 plan` first"),
        (b"PAR1", "plan.parquet: not readable as Parquet; remove it and plan again"),
        ("cut", "plan.parquet: not readable as Parquet; remove it and plan again"),
        ("foreign", "plan.parquet: schema version none, this program reads version 1 of a bulk"),
    ],
)
def test_plan_that_cannot_be_read_is_one_line(
    tmp_path: Path, content: bytes | str | None, expected: str
) -> None:
    path = tmp_path / "plan.parquet"
    job = Job("a", Input("a", "a"), Path("ink.png"), 1.0, 1.0, "camera", 4, "train-00000", "train")
    if content == "foreign":
        pq.write_table(pa.table({"column": ["a"]}), path)
    elif content == "cut":
        path.write_bytes(encode_plan({"stylized": {"train-00000": [job]}}, "c", CACHE)[:-9])
    elif isinstance(content, bytes):
        path.write_bytes(content)
    for read in (read_shards, list_shards, lambda p: read_plan(p, ["key"])):
        with pytest.raises(ManifestError) as caught:
            read(path)
        assert expected in str(caught.value)
