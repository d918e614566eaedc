"""The verbs around finished data sets, as a user calls them."""

from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from pipeline.errors import PipelineError
from pipeline.folders import RunFolder
from pipeline.library import merge, parse_shares, parse_size, publish, reshard, stats
from pipeline.stages.verify import verify_run
from tests.pipeline.conftest import make_columns
from tests.pipeline.datasets.conftest import SHARDS, write_column


def call(command: click.Command, *arguments: object) -> Result:
    result = CliRunner().invoke(command, [str(a) for a in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
def heads(tmp_path: Path) -> Path:
    write_column(tmp_path / "heads" / "render", SHARDS, failed=[1])
    return tmp_path / "heads"


@pytest.mark.parametrize(
    ("text", "size"),
    [("1", 1), ("500MB", 500_000_000), ("1.5 gb", 1_500_000_000), ("2GiB", 2**31), ("3kb", 3000)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "0", "-1GB", "1XB", "GB", "0.1B", "1e9", "1,5GB"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is no size such as 500MB"):
        parse_size(text)


def test_shares() -> None:
    assert parse_shares("train=0.9, test=.1") == (("train", 0.9), ("test", 0.1))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train", "'train' is no share such as train=0.9"),
        ("a/b=1", "'a/b=1' is no share"),
        ("train=nan", "is no share"),
        ("train=0.5,test=0.6", "the shares add up to 1.1, not to 1"),
        ("train=1,test=0", "test: its share must be above 0"),
        ("a=0.5,a=0.5", "a split is given twice"),
    ],
)
def test_what_are_no_shares(text: str, message: str) -> None:
    with pytest.raises(click.BadParameter, match=message):
        parse_shares(text)


def test_publish(heads: Path, tmp_path: Path) -> None:
    arguments = (publish, heads, tmp_path / "hub", "--licence", "mit", "--column", "render")
    assert call(*arguments).stdout.endswith("hub: 3 shards, 3 of them new\n")
    assert call(*arguments, "--workers", 2).stdout.endswith("hub: 3 shards, 0 of them new\n")
    assert "license: mit" in (tmp_path / "hub" / "README.md").read_text()
    linked = call(publish, heads, tmp_path / "linked", "--link")
    assert linked.exit_code == 0
    tar = tmp_path / "linked" / "render" / "train-00001-of-00002.tar"
    assert tar.samefile(heads / "render" / "train-00001.tar")


def test_publish_and_stats_of_a_run(open_variant: Callable[..., RunFolder], tmp_path: Path) -> None:
    folder = open_variant({"finetune": None, "stylize": None, "styles": {}})
    make_columns(folder)
    manifest, out = tmp_path / "run.yaml", tmp_path / "runs"
    with pytest.raises(PipelineError, match="run `diffstyle360 verify` first"):
        call(publish, manifest, tmp_path / "hub", "--out", out)
    verify_run(folder)
    result = call(publish, manifest, tmp_path / "hub", "--out", out)
    assert result.stdout.endswith("hub: 3 shards, 3 of them new\n")
    assert (tmp_path / "hub" / "plan.parquet").is_file()
    text = call(stats, manifest, "--out", out).stdout
    assert "render: 3 shards" in text
    assert "4 views a sample" in text


def test_merge(heads: Path, tmp_path: Path) -> None:
    write_column(tmp_path / "more" / "render", {"train-00000": [8]})
    result = call(merge, heads, tmp_path / "more", "--out", tmp_path / "all")
    assert result.stdout.endswith("render: 4 shards\n")
    prefixed = call(
        merge,
        heads,
        tmp_path / "more",
        "--out",
        tmp_path / "both",
        "--prefix",
        "--column",
        "render",
    )
    assert prefixed.exit_code == 0
    assert b"more-train-00000008.json" in (
        (tmp_path / "both" / "render" / "train-00002.idx").read_bytes()
    )


def test_reshard(heads: Path, tmp_path: Path) -> None:
    column = heads / "render"
    assert call(reshard, column, "--out", tmp_path / "a", "--identities", 6).stdout == (
        f"{tmp_path / 'a'}: test: 1 shards\n{tmp_path / 'a'}: train: 1 shards\n"
    )
    drawn = call(reshard, column, "--out", tmp_path / "b", "--split", "train=0.5,val=0.5")
    assert "b: train: " in drawn.stdout
    small = call(reshard, column, "--out", tmp_path / "c", "--size", "1B")
    assert "c: train: 6 shards" in small.stdout  # in their order; a failed one has no bytes
    refused = call(reshard, column, "--out", tmp_path / "d")
    assert refused.exit_code == 2
    assert "give --identities, --size or --split" in refused.output


def test_stats(heads: Path) -> None:
    shallow = call(stats, heads).stdout
    assert "render: 3 shards" in shallow
    assert call(stats, heads / "render").stdout == shallow
    deep = call(stats, heads, "--column", "render", "--deep", "--near", 0).stdout
    assert deep.startswith(shallow)
    assert "render: 7 identities, 14 views looked at" in deep
    assert len(list((heads / "render" / "quality").glob("*.parquet"))) == 3
