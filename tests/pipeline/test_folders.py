from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from manifests.schemas import VERSION_KEY
from pipeline.errors import PipelineError
from pipeline.folders import RunFolder


def test_plan_must_be_there_and_of_this_version(open_variant: Callable[..., RunFolder]) -> None:
    folder = open_variant()
    with pytest.raises(PipelineError, match="run `diffstyle360 plan` first"):
        _ = folder.plan
    folder.path.mkdir(parents=True)
    folder.plan_path.write_bytes(b"not parquet")
    with pytest.raises(PipelineError, match="not readable as Parquet"):
        _ = folder.plan


def test_plan_of_another_version_is_refused(copied_run: RunFolder) -> None:
    plan = pq.read_table(copied_run.plan_path)
    pq.write_table(plan.replace_schema_metadata({VERSION_KEY: b"2"}), copied_run.plan_path)
    with pytest.raises(PipelineError, match="schema version 2, this program reads 1"):
        _ = copied_run.plan


def test_rows_of_a_shard(made_run: RunFolder) -> None:
    assert [row["key"] for row in made_run.rows("train-00001")] == ["train-00000002"]
    with pytest.raises(
        PipelineError, match="no shard 'train-00009' in this run; it has train-00000 to"
    ):
        made_run.rows("train-00009")


def test_stylizer_is_the_given_one_or_the_runs_own(
    open_variant: Callable[..., RunFolder], tiny_model: Path
) -> None:
    folder = open_variant()
    assert folder.stylizer == folder.path / "stylizer"
    assert open_variant({"stylize.model": str(tiny_model)}).stylizer == tiny_model
