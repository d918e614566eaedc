from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import eg3d_renderer as er
import pipeline.stages.render as stage
from pipeline.counts import count_column
from pipeline.errors import PipelineError
from pipeline.folders import RunFolder
from pipeline.shards.codecs import to_uint8
from pipeline.shards.indexes import write_wids
from pipeline.shards.reader import Column, read_clip
from pipeline.shards.records import read_commit
from pipeline.shards.verify import verify_column
from pipeline.stages.plan import plan_run
from pipeline.stages.render import render_shard
from pipeline.stages.retry import find_failed, set_aside
from tests.shipped import needs_demo_weights

Open = Callable[..., RunFolder]
CPU = torch.device("cpu")


def samples(column: Path) -> dict[str, dict[str, bytes]]:
    opened = Column(column)
    return {key: opened.read(key, decoded=False) for key in opened.keys}


def test_sample_says_all_about_itself(made_run: RunFolder) -> None:
    column = Column(made_run.column("style-statue"))
    sample = column.read("test-00000000")
    views = [f"view_{v:02d}.{kind}.png" for v in range(4) for kind in ("rgb", "depth", "mask")]
    assert list(sample) == [*views, "reference_00.rgb.png", "json"]
    meta = sample["json"]
    assert meta["key"] == "test-00000000"
    assert meta["generator"]["source"] == "procedural:statue"
    assert meta["depth"]["levels"] == 65535
    labels = torch.tensor([view["label"] for view in meta["views"]])
    torch.testing.assert_close(labels, er.cameras.orbit(4), rtol=0, atol=0)
    assert sample["view_00.depth.png"][0, 0] == 65535  # a corner shows the background
    assert sample["view_00.mask.png"][0, 0] == 0


def test_image_is_the_generators(made_run: RunFolder) -> None:
    [row] = made_run.rows("test-00000")
    generator = er.load_generator("procedural:statue")
    z, instance, reference = (
        er.latents([row[name]], generator.z_dim)
        for name in ("seed", "instance_seed", "reference_seed")
    )
    column = Column(made_run.column("style-statue"))
    shown = {"view_01.rgb": z, "reference_00.rgb": reference}
    for camera, (member, latent) in zip((1, 0), shown.items(), strict=True):
        latent[:, generator.instance] = instance[:, generator.instance]
        label = er.cameras.orbit(4)[camera : camera + 1]
        image = to_uint8(generator.synthesis(generator.mapping(latent), label, 32)["image"])[0]
        [stored] = column.read(row["key"], [member]).values()
        np.testing.assert_array_equal(stored, image)


@needs_demo_weights
def test_trained_heads_are_rendered_as_procedural_ones_are(open_variant: Open) -> None:
    """The style's instance is set by the plan, the identity by the seed, and the record says what
    made them."""
    changes = {"generator.source": "demo", "styles.statue.source": "demo:statue"}
    folder = open_variant({**changes, "outputs.resolution": 16, "rig.views": 2})
    plan_run(folder)
    [row] = folder.rows("test-00000")
    for name, source in (("render", "demo"), ("style-statue", "demo:statue")):
        render_shard(folder, name, "test-00000", CPU)
        generator = er.load_generator(source)
        made = read_commit(folder.column(name) / "test-00000.parquet").provenance
        assert made["generator"] == {"source": source, "digest": generator.digest}
        z, instance = (er.latents([row[f"{n}seed"]], 48) for n in ("", "instance_"))
        z[:, generator.instance] = instance[:, generator.instance]
        with torch.inference_mode():
            views = generator.synthesis(generator.mapping(z), er.cameras.orbit(2), 16)["image"]
        stored = read_clip(Column(folder.column(name)), row["key"], [0, 1])
        np.testing.assert_array_equal(stored, to_uint8(views))


def test_bytes_do_not_depend_on_shards_or_order(made_run: RunFolder, open_variant: Open) -> None:
    other = open_variant({"shards.identities": 1})
    plan_run(other)
    for column in ("render", "style-statue"):
        for shard in reversed(other.run.shard_names()):
            render_shard(other, column, shard, CPU)
        assert samples(other.column(column)) == samples(made_run.column(column))


def test_same_manifest_gives_the_same_tar(made_run: RunFolder, tmp_path: Path) -> None:
    again = RunFolder(made_run.run, tmp_path)
    plan_run(again)
    render_shard(again, "render", "train-00000", CPU)
    for extension in ("tar", "idx"):
        name = f"train-00000.{extension}"
        mine, theirs = (f.column("render") / name for f in (again, made_run))
        assert mine.read_bytes() == theirs.read_bytes()


def test_fixed_instance_is_shared_by_all(made_run: RunFolder, open_variant: Open) -> None:
    changes = {"styles.statue.instance": 5, "styles.plain": {"source": "procedural:statue"}}
    folder = open_variant(changes)
    plan_run(folder)
    generator = er.load_generator("procedural:statue")
    render_shard(folder, "style-statue", "test-00000", CPU)
    [row] = folder.rows("test-00000")
    z = er.latents([row["seed"]], generator.z_dim)
    z[:, generator.instance] = er.latents([5], generator.z_dim)[:, generator.instance]
    image = to_uint8(
        generator.synthesis(generator.mapping(z), er.cameras.orbit(4)[:1], 32)["image"]
    )
    stored = read_clip(Column(folder.column("style-statue")), row["key"], [0])
    np.testing.assert_array_equal(stored, image)


@pytest.mark.parametrize(
    ("changes", "members"),
    [
        ({"outputs.rgb": "webp"}, ["view_00.rgb.webp", "view_00.depth.png", "view_00.mask.png"]),
        ({"outputs.rgb": "jpeg", "outputs.mask": False}, ["view_00.rgb.jpg", "view_00.depth.png"]),
        ({"outputs.depth": "npy"}, ["view_00.rgb.png", "view_00.depth.npy", "view_00.mask.png"]),
        ({"outputs.depth": "none", "outputs.mask": False}, ["view_00.rgb.png", "view_01.rgb.png"]),
    ],
)
def test_outputs_are_as_asked(
    open_variant: Open, changes: dict[str, Any], members: list[str]
) -> None:
    folder = open_variant(changes)
    plan_run(folder)
    render_shard(folder, "render", "test-00000", CPU)
    sample = Column(folder.column("render")).read("test-00000000")
    assert list(sample)[: len(members)] == members
    assert ("depth" in sample["json"]) == (folder.run.outputs.depth != "none")


def test_truncation_draws_towards_the_mean(open_variant: Open) -> None:
    images = []
    for psi in (1.0, 0.5):
        folder = open_variant({"generator.truncation_psi": psi})
        plan_run(folder)
        render_shard(folder, "render", "test-00000", CPU)
        images.append(read_clip(Column(folder.column("render")), "test-00000000", [0]))
    assert (images[0] != images[1]).any()


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch, open_variant: Open) -> RunFolder:
    """A run in which one identity's second view is NaN, and another's depth lies behind the end."""
    folder = open_variant()
    plan_run(folder)
    nan, far = (row["seed"] for row in folder.rows("train-00000"))
    load = er.load_generator

    def load_poisoned(source: str, *settings: Any) -> Any:
        generator = load(source, *settings)
        render = generator.render
        seeds = {er.latents([seed], generator.z_dim)[0, 0].item(): seed for seed in (nan, far)}
        drawn: list[int | None] = []
        mapping = generator.mapping

        def map_seed(z: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
            drawn.append(seeds.get(z[0, 0].item()))
            return mapping(z, *args, **kwargs)

        def render_seed(*args: Any) -> dict[str, torch.Tensor]:
            out = render(*args)
            if drawn[-1] == nan:
                out["image"][1, 0, 3, 3] = torch.nan
            if drawn[-1] == far:
                out["image_depth"][0] += 9
            return out

        monkeypatch.setattr(generator, "mapping", map_seed)
        monkeypatch.setattr(generator, "render", render_seed)
        return generator

    monkeypatch.setattr(er, "load_generator", load_poisoned)
    return folder


def test_poisoned_identities_become_failed_rows(poisoned: RunFolder) -> None:
    for shard in ("train-00000", "train-00001"):
        render_shard(poisoned, "render", shard, CPU)
    count = count_column(poisoned.column("render"))
    assert count.statuses == {"ok": 1, "non_finite": 1, "cannot_encode": 1}
    assert "image of view 1 is not finite" in count.examples["non_finite"]
    assert "must lie in [2.25, 3.3]" in count.examples["cannot_encode"]
    assert Column(poisoned.column("render")).keys == ["train-00000002"]


def test_retried_shard_is_as_if_nothing_had_failed(
    open_variant: Open, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One identity comes out as NaN, once; then it alone is rendered, and no other column moves."""
    folder = open_variant({"shards.identities": 3, "outputs.resolution": 16})
    plan_run(folder)
    render_shard(folder, "style-statue", "train-00000", CPU)
    column, style = folder.column("render"), folder.column("style-statue")
    others = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in style.iterdir()}
    rows = folder.rows("train-00000")
    poisoned, rendered = [rows[1]["seed"]], []
    render = stage.render_seed

    def render_counted(run: Any, generator: Any, labels: Any, seed: int, *rest: int) -> Any:
        rendered.append(seed)
        if seed in poisoned:
            poisoned.remove(seed)
            raise FloatingPointError(f"seed {seed}: image of view 1 is not finite")
        return render(run, generator, labels, seed, *rest)

    monkeypatch.setattr(stage, "render_seed", render_counted)
    render_shard(folder, "render", "train-00000", CPU)
    assert count_column(column).statuses == {"ok": 2, "non_finite": 1}
    write_wids(column)
    set_aside(column, find_failed(column).shards)
    rendered.clear()
    render_shard(folder, "render", "train-00000", CPU)
    assert rendered == [rows[1]["seed"]]
    never_failed = RunFolder(folder.run, tmp_path / "clean")
    plan_run(never_failed)
    render_shard(never_failed, "render", "train-00000", CPU)
    for extension in ("tar", "idx"):
        name = f"train-00000.{extension}"
        mine, theirs = (f.column("render") / name for f in (folder, never_failed))
        assert mine.read_bytes() == theirs.read_bytes()
    assert verify_column(column, [row["key"] for row in rows]) == []
    assert {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in style.iterdir()} == others


def test_unknown_column_is_named(made_run: RunFolder) -> None:
    with pytest.raises(PipelineError, match="no column 'style-stat' to render; there: render, st"):
        render_shard(made_run, "style-stat", "test-00000", CPU)
