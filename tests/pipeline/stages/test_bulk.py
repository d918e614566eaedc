import io
import itertools
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import webdataset
from PIL import Image

import pipeline.stages.bulk as stage
from pipeline.counts import count_column
from pipeline.errors import PipelineError
from pipeline.images import decode_picture, read_file, to_model
from pipeline.seeds import derive_seed
from pipeline.shards import ShardError
from pipeline.shards.codecs import to_uint8
from pipeline.shards.reader import Column, read_clip
from pipeline.shards.records import read_records
from pipeline.stages.bulk import BulkRequest, open_bulk, stylize_bulk_shard
from pipeline.stages.export import export_column
from pipeline.stages.retry import find_failed, set_aside
from pipeline.stages.samples import Failure
from pipeline.stages.verify import verify_folder
from stylize import DiffStyle360, Sampling, StylizerConfig, stylize_views
from tests.pipeline import odd_images
from tests.pipeline.inputs.test_archives import write_tar
from tests.pipeline.odd_images import encode, picture

CPU = torch.device("cpu")
Ask = Callable[..., BulkRequest]


def make(request: BulkRequest, out: Path) -> dict[str, Column]:
    bulk = open_bulk(request, out, CPU)
    for column, shards in bulk.columns.items():
        for shard in shards:
            stylize_bulk_shard(bulk, column, shard)
    return {column: Column(out / column) for column in bulk.columns}


def rows(column: Path) -> dict[str, dict[str, Any]]:
    tables = [read_records(path)[0].to_pylist() for path in sorted(column.glob("*.parquet"))]
    return {row["key"]: row for row in itertools.chain(*tables)}


def samples(column: Column) -> dict[str, dict[str, Any]]:
    return {key: column.read(key, decoded=False) for key in column.keys}


def write_portraits(folder: Path, count: int) -> Path:
    folder.mkdir()
    for index in range(count):
        (folder / f"{index}.png").write_bytes(encode(picture(seed=index), "PNG"))
    return folder


def write_identity(folder: Path, seed: int) -> Path:
    """Two views, which need no hint of another identity."""
    folder.mkdir(parents=True)
    for view in range(2):
        (folder / f"{view}.png").write_bytes(encode(picture(seed=seed + view), "PNG"))
    return folder


def test_sample_is_what_the_stylizer_makes(
    rendered_column: Path, ask: Ask, tmp_path: Path, tiny_model: Path
) -> None:
    request = ask(rendered_column, seed=7)
    [column] = make(request, tmp_path / "out").values()
    ours = Column(rendered_column)
    key = ours.keys[-1]
    views = to_model(read_clip(ours, key, range(4)), 32)
    ink = decode_picture(read_file(request.styles["ink"], "ink"), "ink", 32)
    expected = stylize_views(
        DiffStyle360.from_pretrained(tiny_model).eval(),
        front=views[:1],
        back=views[2:3],
        hint=views[None],
        style=to_model(ink.pixels[None], 32)[0],
        sampling=request.sampling,
        seeds=[derive_seed(7, "noise", key)],
    )[0]
    np.testing.assert_array_equal(read_clip(column, key, range(4)), to_uint8(expected))


def test_column_of_ours_keeps_keys_shards_and_cameras(
    rendered_column: Path, ask: Ask, tmp_path: Path
) -> None:
    [column] = make(ask(rendered_column), tmp_path / "out").values()
    ours = Column(rendered_column)
    assert column.keys == ours.keys
    assert sorted(p.name for p in column.folder.iterdir()) == sorted(
        p.name for p in rendered_column.iterdir()
    )
    for key in ours.keys:
        meta, theirs = (c.read(key, ["json"])["json"] for c in (column, ours))
        same = ("views", "seed", "split", "convention")
        assert {n: meta[n] for n in same} == {n: theirs[n] for n in same}
        assert (meta["hint"], meta["back"]) == ("content", "own")
    assert verify_folder(column.folder) == 4


def test_hint_of_another_identity_has_the_cameras_of_its_orbit(
    rendered_column: Path, ask: Ask, tmp_path: Path
) -> None:
    one = rendered_column / "test-00000.tar"
    [column] = make(ask(one, hint="camera", views=3), tmp_path / "out").values()
    meta = column.read(column.keys[0], ["json"])["json"]
    assert (meta["hint"], meta["back"], len(meta["views"])) == ("camera", "own", 3)
    assert "cameras" not in meta
    assert verify_folder(column.folder) == 1


def test_records_say_what_made_a_sample(ask: Ask, tmp_path: Path) -> None:
    folder = write_portraits(tmp_path / "in", 1)
    (folder / "0.back.png").write_bytes(odd_images.turned(6))
    [column] = make(ask(folder, presence=0.5), tmp_path / "out").values()
    meta = column.read("0", ["json"])["json"]
    assert meta["name"] == "0.png"
    assert (meta["hint"], meta["back"]) == ("camera", "given")
    assert [file["name"] for file in meta["files"]] == ["0.png", "0.back.png"]
    back = meta["files"][1]
    assert (back["size"], back["box"], back["orientation"]) == ([24, 30], [0, 3, 24, 27], 6)
    assert meta["style"]["name"] == "ink.png"
    assert len(meta["style"]["sha256"]) == len(meta["stylizer"]) == 64
    sampling = Sampling(steps=2, presence=0.5)
    assert meta["settings"] == asdict(sampling) | {"precision": "exact"}
    _, commit = read_records(column.folder / "train-00000.parquet")
    assert commit.provenance["request"]["settings"]["views"] == 2


def test_given_back_view_has_an_effect(ask: Ask, tmp_path: Path) -> None:
    folder = write_portraits(tmp_path / "in", 1)
    [without] = make(ask(folder), tmp_path / "a").values()
    (folder / "0.back.png").write_bytes(encode(picture(seed=5), "PNG"))
    [given] = make(ask(folder), tmp_path / "b").values()
    assert without.read("0", ["json"])["json"]["back"] == "none"
    assert (read_clip(given, "0", range(2)) != read_clip(without, "0", range(2))).any()


def test_back_view_is_generated_where_the_model_can(
    ask: Ask, tmp_path: Path, tiny_model: Path
) -> None:
    config = json.loads((tiny_model / "config.json").read_text()) | {"back_view": True}
    DiffStyle360(StylizerConfig(**config)).save_pretrained(tmp_path / "model")
    folder = write_portraits(tmp_path / "in", 1)
    [column] = make(ask(folder, model=tmp_path / "model"), tmp_path / "out").values()
    assert {column.read(k, ["json"])["json"]["back"] for k in column.keys} == {"generated"}


def test_views_without_cameras_are_verified_and_not_exported(ask: Ask, tmp_path: Path) -> None:
    views = {f"a.{i}.png": encode(picture(seed=i), "PNG") for i in range(4)}
    tar = write_tar(tmp_path / "x.tar", dict(views))
    [column] = make(ask(tar), tmp_path / "out").values()
    meta = column.read("a", ["json"])["json"]
    assert (meta["cameras"], meta["views"][3]) == ("unknown", {"name": "view_03"})
    assert verify_folder(column.folder) == 1
    with pytest.raises(PipelineError, match="a: its cameras are not known"):
        export_column(column.folder, tmp_path / "exported")
    assert not (tmp_path / "exported" / "a").exists()


def test_webdataset_reads_the_column(ask: Ask, tmp_path: Path) -> None:
    [column] = make(ask(write_portraits(tmp_path / "in", 2)), tmp_path / "out").values()
    pattern = str(column.folder / "train-00000.tar")
    read = list(webdataset.WebDataset(pattern, shardshuffle=False).decode("rgb8"))
    assert [sample["__key__"] for sample in read] == ["0", "1"]
    assert read[0]["view_01.rgb.png"].shape == (32, 32, 3)


def test_bytes_do_not_depend_on_shards_or_neighbours(ask: Ask, tmp_path: Path) -> None:
    folder = write_portraits(tmp_path / "in", 2)
    write_identity(folder / "7", seed=7)
    [one] = make(ask(folder, shard_size=1), tmp_path / "one").values()
    [all_] = make(ask(folder), tmp_path / "all").values()
    assert samples(one) == samples(all_)
    (folder / "0.png").unlink()
    [two] = make(ask(folder), tmp_path / "two").values()
    assert samples(two) == {key: samples(all_)[key] for key in ("1", "7")}


def test_identities_together_are_those_alone(
    ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_portraits(tmp_path / "in", 2)
    (folder / "0.back.png").write_bytes(encode(picture(seed=8), "PNG"))
    (folder / "2.png").write_bytes(b"")
    for name in ("3", "4", "5"):
        write_identity(folder / name, seed=int(name))
    [alone] = make(ask(folder), tmp_path / "alone").values()
    monkeypatch.setattr(stage, "identities_at_once", lambda *_: 4)
    [together] = make(ask(folder), tmp_path / "together").values()
    assert together.keys == alone.keys == ["0", "1", "3", "4", "5"]
    for key in alone.keys:
        one, other = (read_clip(c, key, range(2)).astype(int) for c in (alone, together))
        assert np.abs(one - other).max() <= 1


def test_table_says_content_style_and_dials_of_every_sample(ask: Ask, tmp_path: Path) -> None:
    folder = write_portraits(tmp_path / "in", 2)
    (tmp_path / "oil.png").write_bytes(encode(picture(seed=7), "PNG"))
    (tmp_path / "cut.png").write_bytes(odd_images.bad()["cut.png"][0])
    table = tmp_path / "jobs.csv"
    table.write_text(
        "content,style,presence,temperature,name\n"
        "0,ink.png,,,plain\n0,ink.png,0,,none\n0,ink.png,,0.5,sharp\n0,oil.png,,,oil\n"
        "1.png,ink.png,,,\nin/1.png,ink.png,,,\n7,ink.png,,,\n1,none.png,,,\n1,cut.png,,,\n"
    )
    [column] = make(ask(folder, styles={}, table=table), tmp_path / "out").values()
    found = rows(tmp_path / "out" / "stylized")
    assert [row["status"] for row in found.values()] == [
        *["ok"] * 6, "missing", "style_missing", "style_truncated"
    ]  # fmt: skip
    assert next(iter(found)) == "row-00000000-plain"
    images = [read_clip(column, key, range(2)).tobytes() for key in column.keys]
    assert len(set(images[:4])) == 4
    meta = column.read(column.keys[1], ["json"])["json"]
    assert (meta["label"], meta["settings"]["presence"]) == ("none", 0)
    assert verify_folder(column.folder) == 9


def test_one_of_two_styles_is_a_column_of_its_own(ask: Ask, tmp_path: Path) -> None:
    folder = write_portraits(tmp_path / "in", 1)
    oil = tmp_path / "oil.png"
    oil.write_bytes(encode(picture(seed=7), "PNG"))
    request = ask(folder)
    columns = make(ask(folder, styles={**request.styles, "oil": oil}), tmp_path / "out")
    ink, oil_column = columns["stylized-ink"], columns["stylized-oil"]
    assert (read_clip(ink, "0", range(2)) != read_clip(oil_column, "0", range(2))).any()


def test_non_finite_output_is_a_failed_row(ask: Ask, tmp_path: Path) -> None:
    model = DiffStyle360.from_pretrained(ask(None).model)
    torch.nn.init.constant_(model.denoiser.conv_in.bias, torch.nan)
    model.save_pretrained(tmp_path / "broken")
    request = ask(write_identity(tmp_path / "in" / "0", seed=1).parent, model=tmp_path / "broken")
    make(request, tmp_path / "out")
    assert {r["status"] for r in rows(tmp_path / "out/stylized-ink").values()} == {"non_finite"}


def test_portrait_has_no_views_for_the_hint_content(ask: Ask, tmp_path: Path) -> None:
    make(ask(write_portraits(tmp_path / "in", 1), hint="content"), tmp_path / "out")
    [row] = rows(tmp_path / "out/stylized-ink").values()
    assert row["status"] == "no_views"


def test_damaged_column_is_failed_rows(ask: Ask, rendered_column: Path, tmp_path: Path) -> None:
    copied = tmp_path / "render"
    copied.mkdir()
    for path in rendered_column.iterdir():
        (copied / path.name).write_bytes(path.read_bytes())
    damaged = bytearray((copied / "train-00000.tar").read_bytes())
    damaged[600] ^= 1
    (copied / "train-00000.tar").write_bytes(damaged)
    make(ask(copied), tmp_path / "out")
    found = rows(tmp_path / "out/stylized-ink")
    assert found["train-00000000"]["status"] == "content_unreadable"
    assert "sha256 differs" in found["train-00000000"]["message"]
    assert len([row for row in found.values() if row["status"] == "ok"]) == 3


def test_what_cannot_be_met_leaves_nothing(ask: Ask, tmp_path: Path) -> None:
    folder, out = write_portraits(tmp_path / "in", 1), tmp_path / "out"
    (tmp_path / "cut.png").write_bytes(odd_images.bad()["cut.png"][0])
    for changes, error, told in [
        ({"styles": {"cut": tmp_path / "cut.png"}}, PipelineError, "cut.png: the file is cut off"),
        ({"styles": {"none": tmp_path / "none.png"}}, PipelineError, "none.png: No such file"),
        ({"model": tmp_path}, PipelineError, "no stylizer there"),
        ({"generator": "none.pkl"}, ValueError, "generator.source: no such file"),
    ]:
        with pytest.raises(error, match=told):
            open_bulk(ask(folder, **changes), out, CPU)
    with pytest.raises(PipelineError, match="nowhere: no images there"):
        open_bulk(ask("nowhere"), out, CPU)
    assert not out.exists()


def test_folder_keeps_to_its_request(ask: Ask, tmp_path: Path) -> None:
    folder, out = write_identity(tmp_path / "in" / "0", seed=1).parent, tmp_path / "out"
    make(ask(folder), out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    open_bulk(ask(folder), out, CPU)
    with pytest.raises(PipelineError, match=r"another stylization: its settings.presence differs"):
        open_bulk(ask(folder, presence=0.5), out, CPU)
    (folder / "more.png").write_bytes(b"")
    with pytest.raises(PipelineError, match=r"another stylization: its content.listing differs"):
        open_bulk(ask(folder), out, CPU)
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*")}


def test_portraits_at_any_depth_are_part_of_the_request(ask: Ask, tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    for seed, name in enumerate(("00000/00001.png", "00000/00002.png", "01000/01000.png")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(encode(picture(seed=seed), "PNG"))
    [column] = make(ask(folder, portraits=True), out).values()
    assert column.keys == ["00000-00001", "00000-00002", "01000-01000"]
    assert json.loads((out / "stylize.json").read_text())["content"]["portraits"] is True
    with pytest.raises(PipelineError, match=r"another stylization: its content.portraits differs"):
        open_bulk(ask(folder), out, CPU)


def test_style_is_the_one_that_was_looked_at(ask: Ask, tmp_path: Path) -> None:
    """Also where the file changes while shards are made."""
    request = ask(write_portraits(tmp_path / "in", 1))
    bulk = open_bulk(request, tmp_path / "out", CPU)
    request.styles["ink"].write_bytes(odd_images.bad()["cut.png"][0])
    stylize_bulk_shard(bulk, "stylized-ink", "train-00000")
    style = Column(tmp_path / "out/stylized-ink").read("0", ["json"])["json"]["style"]
    said = json.loads((tmp_path / "out/stylize.json").read_text())["styles"]
    assert list(said.values()) == [style["sha256"]]


def test_precision_is_of_the_stylizer(ask: Ask, tmp_path: Path) -> None:
    folder = write_portraits(tmp_path / "in", 1)
    exact, fast = (
        make(ask(folder, precision=precision), tmp_path / precision)["stylized-ink"]
        for precision in ("exact", "fast")
    )
    assert fast.read("0", ["json"])["json"]["settings"]["precision"] == "fast"
    one, other = (read_clip(column, "0", range(2)).astype(int) for column in (exact, fast))
    assert 0 < np.abs(one - other).mean() < 8


def test_encoding_is_as_asked(ask: Ask, tmp_path: Path) -> None:
    [column] = make(ask(write_portraits(tmp_path / "in", 1), rgb="jpeg"), tmp_path / "o").values()
    member = column.read("0", ["view_00.rgb"], decoded=False)["view_00.rgb.jpg"]
    assert Image.open(io.BytesIO(member)).format == "JPEG"
    with pytest.raises(ShardError):
        column.read("none")


def test_retried_shard_stylizes_what_failed_alone(
    ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = ask(write_portraits(tmp_path / "in", 3), hint="camera")
    bulk = open_bulk(request, tmp_path / "out", CPU)
    [column] = bulk.columns
    prepared: list[str] = []
    prepare = stage._prepare

    def fail_once(bulk: Any, job: Any, *found: Any) -> Any:
        prepared.append(job.key)
        if job.key == "1" and len(prepared) <= 3:
            return Failure(stage._row(bulk, job), "non_finite", "hint")
        return prepare(bulk, job, *found)

    monkeypatch.setattr(stage, "_prepare", fail_once)
    stylize_bulk_shard(bulk, column, "train-00000")
    folder = tmp_path / "out" / column
    assert count_column(folder).statuses == {"ok": 2, "non_finite": 1}
    set_aside(folder, find_failed(folder).shards)
    stylize_bulk_shard(bulk, column, "train-00000")
    assert prepared == ["0", "1", "2", "1"]
    never_failed = open_bulk(request, tmp_path / "clean", CPU)
    stylize_bulk_shard(never_failed, column, "train-00000")
    for extension in ("tar", "idx"):
        mine, theirs = (
            f / f"train-00000.{extension}" for f in (folder, tmp_path / "clean" / column)
        )
        assert mine.read_bytes() == theirs.read_bytes()
    assert verify_folder(folder) == 3
