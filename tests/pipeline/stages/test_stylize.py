import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import pipeline.stages.stylize as stage
from pipeline.counts import count_column
from pipeline.errors import PipelineError
from pipeline.folders import RunFolder
from pipeline.images import to_model
from pipeline.shards.codecs import decode, to_uint8
from pipeline.shards.reader import Column, read_clip
from pipeline.shards.records import read_commit
from pipeline.shards.verify import verify_column
from pipeline.shards.writer import ShardWriter
from pipeline.stages.retry import find_failed, set_aside
from pipeline.stages.stylize import open_stylization, stylize_shard
from stylize import DiffStyle360, Sampling, stylize_views
from tests.pipeline.conftest import make_columns

Open = Callable[..., RunFolder]
CPU = torch.device("cpu")


@pytest.fixture
def open_bulk(open_variant: Open, tiny_model: Path) -> Open:
    """Opens a run that stylizes with the tiny model and trains nothing; its columns are made."""

    def open_it(changes: dict[str, Any] | None = None) -> RunFolder:
        base = {"finetune": None, "stylize.model": str(tiny_model)}
        folder = open_variant(base | (changes or {}))
        make_columns(folder)
        return folder

    return open_it


def stylize(folder: RunFolder, reference: str = "statue") -> dict[str, dict[str, Any]]:
    stylization = open_stylization(folder, CPU)
    for shard in folder.run.shard_names(folder.run.stylized_split):
        stylize_shard(stylization, reference, shard)
    column = Column(folder.column(f"stylized-{reference}"))
    return {key: column.read(key, decoded=False) for key in column.keys}


def test_column_is_what_the_stylizer_makes(made_run: RunFolder) -> None:
    [row] = made_run.rows("test-00000")
    render, style = (Column(made_run.column(name)) for name in ("render", "style-statue"))
    views = to_model(read_clip(render, row["key"], range(4)), 32)
    reference = style.read(row["key"], ["reference_00.rgb"])["reference_00.rgb.png"]
    model = DiffStyle360.from_pretrained(made_run.stylizer).eval()
    [expected] = stylize_views(
        model,
        views[None, 0],
        views[None, 2],
        views[None],
        to_model(reference[None], 32),
        Sampling(steps=2),
        [row["noise_seed"]],
    )
    column = Column(made_run.column("stylized-statue"))
    assert column.keys == ["test-00000000"]
    off = read_clip(column, row["key"], range(4)).astype(int) - to_uint8(expected)
    assert abs(off).max() <= 1  # the same sums, of tensors that lie otherwise in memory
    assert (off != 0).mean() < 1e-3
    meta = column.read(row["key"], ["json"])["json"]
    assert meta["settings"]["presence"] == 1.0
    assert len(meta["views"]) == 4


def test_bytes_do_not_depend_on_shards(open_bulk: Open) -> None:
    split = {"stylize.split": "train"}
    one = stylize(open_bulk(split | {"shards.identities": 1}))
    three = stylize(open_bulk(split | {"shards.identities": 3}))
    assert len(one) == 3
    assert one == three


def test_one_image_for_all(tmp_path: Path, open_bulk: Open) -> None:
    Image.new("RGB", (40, 40), (200, 30, 30)).save(tmp_path / "red.png")
    Image.new("RGB", (40, 40), (30, 30, 200)).save(tmp_path / "blue.png")
    references = {"red": {"image": "red.png"}, "blue": {"image": "blue.png"}}
    folder = open_bulk({"stylize.references": references, "styles": {}})
    assert stylize(folder, "red") != stylize(folder, "blue")


def test_camera_hint_shows_another_identity(open_bulk: Open) -> None:
    folder = open_bulk({"stylize.hint": "camera"})
    stylization = open_stylization(folder, CPU)
    hint = stage.render_hint(folder.run, stylization.hints, "test-00000000", stylization.stylizer)
    views = to_model(read_clip(Column(folder.column("render")), "test-00000000", range(4)), 32)
    assert hint.shape == views.shape
    assert (hint - views).abs().mean() > 0.01
    assert stylize(folder) != stylize(open_bulk())


@pytest.mark.parametrize(
    ("dial", "value"),
    [
        ("presence", 0.0),
        ("temperature", 0.5),
        ("gated", False),
        ("sampler", "unipc"),
        ("eta", 0.5),
        ("start", "hint"),
        ("steps", 3),
        ("style_guidance", 2),
        ("precision", "fast"),
    ],
)
def test_every_dial_has_an_effect(open_bulk: Open, dial: str, value: float) -> None:
    sample, other = (
        stylize(folder)["test-00000000"]["view_00.rgb.png"]
        for folder in (open_bulk(), open_bulk({f"stylize.{dial}": value}))
    )
    assert sample != other


def test_a_reference_may_set_its_own_dials(open_bulk: Open) -> None:
    references = {"statue": {"style": "statue"}, "off": {"style": "statue", "presence": 0.0}}
    folder = open_bulk({"stylize.references": references})
    off, plain = stylize(folder, "off"), stylize(open_bulk({"stylize.presence": 0.0}))
    name = "view_00.rgb.png"
    assert off["test-00000000"][name] == plain["test-00000000"][name]
    assert stylize(folder)["test-00000000"][name] != plain["test-00000000"][name]


def test_a_compiled_denoiser_is_said_and_gives_the_same(
    open_bulk: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = open_bulk()
    plain = stylize(folder)["test-00000000"]
    compile = torch.nn.Module.compile
    eager = functools.partialmethod(compile, backend="eager")  # traced, but built in no time
    monkeypatch.setattr(torch.nn.Module, "compile", eager)
    stylize_shard(open_stylization(folder, CPU, compiled=True), "statue", "test-00000")
    compiled = Column(folder.column("stylized-statue")).read("test-00000000", decoded=False)
    assert compiled == plain
    commit = read_commit(folder.column("stylized-statue") / "test-00000.parquet")
    assert commit.provenance["compiled"]


def test_identities_together_keep_their_order_and_failures(
    open_bulk: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = open_bulk({"stylize.split": "train", "shards.identities": 3})
    alone = stylize(folder)
    with ShardWriter(folder.column("render"), "train-00000", {}) as writer:
        content = Column(open_bulk({"stylize.split": "train"}).column("render"))
        for key in ("train-00000000", "train-00000002"):
            members = content.read(key, decoded=False)
            writer.add(key, members, seed=1, split="train", seconds=0.0)
        writer.fail("train-00000001", "non_finite", "view 1", seed=1, split="train")
    monkeypatch.setattr(stage, "identities_at_once", lambda *_: 3)
    together = stylize(folder)
    assert list(together) == ["train-00000000", "train-00000002"]
    assert count_column(folder.column("stylized-statue")).failed == 1
    for key, members in together.items():
        for name in ("view_00.rgb.png", "view_03.rgb.png"):
            first, second = (
                decode(f"{key}.{name}", sample[name]).astype(int)
                for sample in (members, alone[key])
            )
            assert np.abs(first - second).max() <= 1


def test_where_memory_runs_out_fewer_views_are_tried(
    open_bulk: Open, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = open_bulk({"stylize.split": "train", "shards.identities": 3})
    alone = stylize(folder)
    tried = []

    def stylize_in_little(*of: Any, at_once: int, **named: Any) -> torch.Tensor:
        tried.append((len(named["front"]), at_once))
        if at_once > 5:
            raise torch.OutOfMemoryError
        return stylize_views(*of, at_once=at_once, **named)

    monkeypatch.setattr(stage, "stylize_views", stylize_in_little)
    monkeypatch.setattr(stage, "views_at_once", lambda _: 16)
    monkeypatch.setattr(stage, "identities_at_once", lambda s, views: s.views_at_once // views)
    (folder.column("stylized-statue") / "train-00000.parquet").unlink()
    together = stylize(folder)
    assert tried == [(3, 16), (2, 8), (1, 4), (1, 4), (1, 4)]
    assert together == alone
    assert "cpu: out of memory; from now on 4 views at a time" in capsys.readouterr().err

    monkeypatch.setattr(stage, "identities_at_once", lambda *_: 1)

    def fail(*of: Any, **named: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(stage, "stylize_views", fail)
    with pytest.raises(PipelineError, match="out of memory with one view at a time"):
        stylize(folder)
    assert not list(folder.path.rglob(".*.tmp"))


def test_damaged_content_is_a_failed_row(open_bulk: Open) -> None:
    folder = open_bulk({"stylize.split": "train"})
    tar = folder.column("render") / "train-00000.tar"
    damaged = bytearray(tar.read_bytes())
    damaged[600] ^= 1
    tar.write_bytes(damaged)
    assert list(stylize(folder)) == ["train-00000001", "train-00000002"]
    count = count_column(folder.column("stylized-statue"))
    assert count.statuses == {"ok": 2, "content_unreadable": 1}
    assert "sha256 differs" in count.examples["content_unreadable"]


def test_failed_content_is_a_failed_row(open_bulk: Open) -> None:
    folder = open_bulk()
    with ShardWriter(folder.column("render"), "test-00000", {}) as writer:
        writer.fail("test-00000000", "non_finite", "view 1", seed=1, split="test")
    assert stylize(folder) == {}
    [message] = count_column(folder.column("stylized-statue")).examples.values()
    assert "no sample test-00000000; it failed or was not planned" in message


def test_non_finite_output_is_a_failed_row(
    open_bulk: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = open_bulk()
    monkeypatch.setattr(stage, "stylize_views", lambda *_, hint, **__: hint * torch.nan)
    assert stylize(folder) == {}
    assert count_column(folder.column("stylized-statue")).statuses == {"non_finite": 1}


def test_retried_shard_stylizes_what_failed_alone(
    open_bulk: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The middle one of three failed once, as its content had; identities go together."""
    folder = open_bulk({"stylize.split": "train", "shards.identities": 3})
    monkeypatch.setattr(stage, "identities_at_once", lambda *_: 2)
    tar = folder.column("render") / "train-00000.tar"
    whole = tar.read_bytes()
    rows = folder.rows("train-00000")
    where = whole.index(f"{rows[1]['key']}.view_00.rgb.png".encode()) + 600
    tar.write_bytes(whole[:where] + bytes([whole[where] ^ 1]) + whole[where + 1 :])
    before = stylize(folder)
    assert list(before) == [rows[0]["key"], rows[2]["key"]]
    tar.write_bytes(whole)
    column = folder.column("stylized-statue")
    set_aside(column, find_failed(column).shards)
    stylized: list[int] = []
    stylize_views = stage.stylize_views

    def count(*args: Any, seeds: list[int], **kwargs: Any) -> torch.Tensor:
        stylized.extend(seeds)
        return stylize_views(*args, seeds=seeds, **kwargs)

    monkeypatch.setattr(stage, "stylize_views", count)
    after = stylize(folder)
    assert stylized == [rows[1]["noise_seed"]]
    assert list(after) == [row["key"] for row in rows]
    assert {key: after[key] for key in before} == before
    assert verify_column(column) == []


def test_what_is_missing_is_named(made_run: RunFolder, open_variant: Open) -> None:
    with pytest.raises(PipelineError, match="run `diffstyle360 finetune` first"):
        open_stylization(open_variant(), CPU)
    with pytest.raises(PipelineError, match="no stylize section"):
        open_stylization(open_variant({"stylize": None}), CPU)
    with pytest.raises(PipelineError, match="no reference 'joker'"):
        stylize_shard(open_stylization(made_run, CPU), "joker", "test-00000")
