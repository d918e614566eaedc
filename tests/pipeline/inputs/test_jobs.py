from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import PipelineError
from pipeline.inputs.jobs import Asked, Job, name_styles, plan_styles, plan_table
from pipeline.inputs.sources import Input, Source
from pipeline.inputs.tables import Row
from pipeline.shards.archive import KEY

ASKED = Asked(hint="auto", views=4, presence=1.0, temperature=1.0, shard_size=3)
INK, OIL = Path("styles/ink.png"), Path("styles/Oil on Canvas.jpg")


STYLES = {"ink": INK}


def make(name: str, views: int = 1, **more: object) -> Input:
    sources = tuple(Source(Path(name), f"{name}/{i}", 1) for i in range(views))
    return Input(**{"name": name, "origin": name, "key": name, "views": sources} | more)


def keys(shards: dict[str, list[Job]]) -> dict[str, list[str]]:
    return {shard: [job.key for job in jobs] for shard, jobs in shards.items()}


def test_every_style_is_a_column_of_all_inputs() -> None:
    columns = plan_styles([make(name) for name in "abcd"], name_styles([INK, OIL]), ASKED)
    assert list(columns) == ["stylized-ink", "stylized-oil-on-canvas"]
    for shards in columns.values():
        assert keys(shards) == {"train-00000": ["a", "b", "c"], "train-00001": ["d"]}
    assert {job.style for job in columns["stylized-ink"]["train-00000"]} == {INK}


def test_styles_of_one_name_are_refused() -> None:
    with pytest.raises(PipelineError, match="two files are called 'ink'; rename one"):
        name_styles([INK, Path("other/Ink.jpg")])


def test_hint_follows_the_content() -> None:
    inputs = [make("portrait"), make("around", 4)]

    def hints(hint: str) -> list[tuple[str, int]]:
        asked = Asked(hint, views=4, presence=1.0, temperature=1.0, shard_size=3)
        [column, *_] = plan_styles(inputs, STYLES, asked).values()
        return [(job.hint, job.views) for job in column["train-00000"]]

    assert hints("auto") == [("camera", 4), ("content", 4)]
    assert hints("camera") == [("camera", 4), ("camera", 4)]
    assert hints("content") == [("content", 1), ("content", 4)]


@given(st.lists(st.sampled_from([0, 1, 3, 4, 8]), min_size=1, max_size=30), st.integers(1, 9))
def test_samples_of_a_column_have_as_many_views(counts: list[int], size: int) -> None:
    inputs = [make(f"i{index}", count) for index, count in enumerate(counts)]
    inputs = [one if one.views else make(one.name, 0, problem=("k", "m")) for one in inputs]
    asked = Asked("auto", views=4, presence=1.0, temperature=1.0, shard_size=size)
    columns = plan_styles(inputs, STYLES, asked)
    seen = []
    for column, shards in columns.items():
        for jobs in shards.values():
            assert 1 <= len(jobs) <= size
            seen += [job.key for job in jobs]
            views = {job.views for job in jobs if not job.content.problem}
            assert len(views) <= 1
            assert column == "stylized-ink" or column == f"stylized-ink.v{min(views)}"
    assert sorted(seen) == sorted(one.key for one in inputs)
    assert "stylized-ink" in columns


def test_samples_of_ours_stay_in_their_shards() -> None:
    inputs = [
        make(f"{shard}{i}", 0, count=4, shard=shard, split=shard[:-6])
        for shard in ("test-00000", "train-00007")
        for i in range(5)
    ]
    [column] = plan_styles(inputs, STYLES, ASKED).values()
    assert {shard: len(jobs) for shard, jobs in column.items()} == {
        "test-00000": 5,
        "train-00007": 5,
    }
    assert {job.split for job in column["test-00000"]} == {"test"}


def test_row_of_a_table_is_a_sample(tmp_path: Path) -> None:
    (tmp_path / "b.png").touch()
    rows = [
        Row("a", "ink.png"),
        Row("a.jpg", "../oil.png", presence=0.5, name="A, faint"),
        Row("b.png", "/abs/ink.png", temperature=0.8, name="x" * 90),
    ]
    one = make("a.jpg", key="a")
    [shards] = plan_table(rows, tmp_path / "jobs.csv", [one], ASKED).values()
    first, second, third = shards["train-00000"]
    assert [job.key for job in (first, second)] == ["row-00000000", "row-00000001-A-faint"]
    assert KEY.fullmatch(third.key)
    assert len(third.key) == 64
    assert first.content == second.content == one
    assert [(job.presence, job.temperature) for job in shards["train-00000"]] == [
        (1.0, 1.0), (0.5, 1.0), (1.0, 0.8)
    ]  # fmt: skip
    assert second.style == tmp_path / "../oil.png"
    assert third.style == Path("/abs/ink.png")
    assert third.content.views[0].path == tmp_path / "b.png"


def test_landmarks_count_where_portraits_are_aligned(tmp_path: Path) -> None:
    """Those of a row and those beside a portrait; else neither, and the jobs are as ever."""
    (tmp_path / "b.png").touch()
    (tmp_path / "b.landmarks.json").touch()
    points = ((1.0, 2.0),) * 5
    rows = [Row("a.jpg", "ink.png", landmarks=points), Row("a.jpg", "ink.png"), Row("b.png", "i")]
    beside = Source(Path("a.landmarks.json"), "a.landmarks.json", 9)
    inputs, table = [make("a.jpg", key="a", landmarks=beside)], tmp_path / "jobs.csv"

    def found(aligned: bool) -> list[tuple[object, object]]:
        [shards] = plan_table(rows, table, inputs, ASKED, aligned).values()
        contents = [job.content for job in shards["train-00000"]]
        return [(one.points, one.landmarks and one.landmarks.name) for one in contents]

    name = "a.landmarks.json"
    assert found(True) == [(points, name), (None, name), (None, "b.landmarks.json")]
    assert found(False) == [(None, None)] * 3


def test_only_the_ending_of_an_image_may_be_left_out(tmp_path: Path) -> None:
    inputs = [make("v1.2", 2), make("v1.png", key="v1-png")]
    [shards] = plan_table([Row("v1", "ink.png")], tmp_path / "jobs.csv", inputs, ASKED).values()
    assert shards["train-00000"][0].content == inputs[1]


def test_back_views_beside_contents_of_a_table(tmp_path: Path) -> None:
    for name in ("a.png", "a.back.jpg", "b.png"):
        (tmp_path / name).touch()
    rows = [Row(name, "ink.png") for name in ("a.png", "b.png", "a.png", "none/c.png")]
    [shards] = plan_table(rows, tmp_path / "jobs.csv", [], ASKED).values()
    contents = [job.content for shard in shards.values() for job in shard]
    assert [one.back and one.back.path.name for one in contents] == [
        "a.back.jpg", None, "a.back.jpg", None
    ]  # fmt: skip


def test_ambiguous_and_missing_contents_are_jobs_that_fail(tmp_path: Path) -> None:
    inputs = [make("a.png", key="a-1"), make("a.jpg", key="a-2"), make("a-1", key="other")]
    rows = [Row(name, "ink.png") for name in ("a", "a-1", "a.jpg", "none.png")]
    [shards] = plan_table(rows, tmp_path / "jobs.csv", inputs, ASKED).values()
    ambiguous, by_key, by_name, missing = (
        job.content for shard in shards.values() for job in shard
    )
    assert ambiguous.problem == ("ambiguous", "a: 2 inputs are called so; give a key, as a-1")
    assert (by_key.key, by_name.key) == ("a-1", "a-2")
    assert missing.views[0].path == tmp_path / "none.png"
