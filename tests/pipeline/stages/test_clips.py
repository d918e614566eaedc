"""Clips are what they should be made of, and the same whatever came before."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from manifests.rig import Orbit
from pipeline.errors import PipelineError
from pipeline.folders import RunFolder
from pipeline.images import to_model
from pipeline.shards.reader import Column, read_clip
from pipeline.stages.clips import FAR, Clips

SIZE = 32
PLAIN = {"realistic": 0.0, "augment": False}


def alter(folder: RunFolder, **finetune: Any) -> RunFolder:
    """The same folder under a manifest with other finetune settings."""
    section = folder.run.finetune
    assert section is not None
    for key in ("hints", "losses"):
        if key in finetune:
            finetune[key] = getattr(section, key).model_copy(update=finetune[key])
    section = section.model_copy(update=PLAIN | finetune)
    run = folder.run.model_copy(update={"finetune": section})
    return dataclasses.replace(folder, run=run)


def open_clips(folder: RunFolder, held_out: bool = False, **finetune: Any) -> Clips:
    split = "test" if held_out else "train"
    return Clips(alter(folder, **finetune), split, ["statue"], SIZE, held_out=held_out)


def test_clip_is_content_style_and_target_of_one_identity(made_run: RunFolder) -> None:
    clips = open_clips(made_run)
    render, style = (Column(made_run.column(name)) for name in ("render", "style-statue"))
    for number in range(6):
        clip = clips.clip(number)
        key = clip["key"]
        content = to_model(read_clip(render, key, range(4)), SIZE)
        styled = to_model(read_clip(style, key, range(4)), SIZE)
        torch.testing.assert_close(clip["front"], content[0])
        torch.testing.assert_close(clip["back"], content[2])
        start = next(s for s in range(4) if torch.equal(styled[s], clip["target"][0]))
        views = [start, (start + 1) % 4]
        torch.testing.assert_close(clip["target"], styled[views])
        torch.testing.assert_close(clip["hint"], content[views])
        reference = style.read(key, ["reference_00.rgb"])["reference_00.rgb.png"]
        torch.testing.assert_close(clip["style"], to_model(reference[None], SIZE)[0])
        assert "depth" not in clip


def test_camera_hint_is_never_the_content(made_run: RunFolder) -> None:
    clips = open_clips(made_run, hints={"content": 0.0, "camera": 1.0})
    for number in range(9):
        drawn = clips.draw(number)
        assert drawn.hinted != drawn.key
        shown = to_model(read_clip(clips.columns["render"], drawn.hinted, drawn.views), SIZE)
        torch.testing.assert_close(clips.clip(number)["hint"], shown)


def test_realistic_clips_have_a_plain_target_and_another_identitys_looks(
    made_run: RunFolder,
) -> None:
    clips = open_clips(made_run, realistic=0.5)
    drawn = [clips.draw(number) for number in range(40)]
    realistic = [d for d in drawn if d.style == "render"]
    assert 8 < len(realistic) < 32
    for d in drawn:
        assert d.reference[0] == d.style
        assert (d.reference[1] != d.key) == (d.style == "render")
    number = drawn.index(realistic[0])
    clip, render = clips.clip(number), clips.columns["render"]
    target = to_model(read_clip(render, realistic[0].key, realistic[0].views), SIZE)
    torch.testing.assert_close(clip["target"], target)
    lent = to_model(read_clip(render, realistic[0].reference[1], [0]), SIZE)[0]
    torch.testing.assert_close(clip["style"], lent)


def test_plain_clips_are_the_content_without_a_style_image(made_run: RunFolder) -> None:
    clips = open_clips(made_run, plain=0.5)
    drawn = [clips.draw(number) for number in range(40)]
    assert 8 < sum(d.presence == 0 for d in drawn) < 32
    assert all(d.presence == float(d.style != "render") for d in drawn)
    batch = clips.batch(range(10))
    assert batch.presence is not None
    assert batch.presence.tolist() == [d.presence for d in drawn[:10]]
    plain = batch.presence == 0
    assert 0 < plain.sum() < 10
    assert torch.equal(batch.target[plain], batch.hint[plain])
    held_out = open_clips(made_run, held_out=True, plain=0.5)
    assert all(held_out.draw(number).presence == 1 for number in range(10))


def test_a_base_needs_no_style(made_run: RunFolder) -> None:
    clips = Clips(alter(made_run, plain=1.0), "train", [], SIZE)
    assert list(clips.columns) == ["render"]
    assert not clips.batch(range(3)).presence.any()


def test_frontal_clips_look_at_the_face(made_run: RunFolder) -> None:
    around = dataclasses.replace(
        made_run, run=made_run.run.model_copy(update={"rig": Orbit(views=16)})
    )
    evenly, some, held_out = (
        open_clips(around, views=3, strides=(2, 2), frontal=share, held_out=held)
        for share, held in ((0.0, False), (0.5, False), (1.0, True))
    )
    frontal = 0
    for number in range(200):
        drawn = some.draw(number)
        assert np.diff(drawn.views).tolist() in ([2, 2], [2, -14], [-14, 2])
        frontal += min(drawn.views[1], 16 - drawn.views[1]) <= 2  # of 16: 45 degrees
        assert drawn.key == evenly.draw(number).key
    assert 0.5 * 200 < frontal < 0.8 * 200  # half of them, and 5 of 16 of the others
    middles = {held_out.draw(number).views[1] for number in range(200)}
    assert middles == set(range(16))


def test_faint_clips_are_between_plain_and_stylized(made_run: RunFolder) -> None:
    whole, some = open_clips(made_run), open_clips(made_run, faint=0.5)
    drawn = [some.draw(number) for number in range(40)]
    assert 8 < sum(d.presence < 1 for d in drawn) < 32
    batch = some.batch(range(10))
    assert batch.presence.tolist() == pytest.approx([d.presence for d in drawn[:10]])
    for number in range(10):
        a, b, presence = whole.clip(number), some.clip(number), drawn[number].presence
        for name in ("front", "back", "hint", "style"):
            assert torch.equal(a[name], b[name])
        wanted = (1 - presence) * a["hint"] + presence * a["target"]
        torch.testing.assert_close(b["target"], wanted)
    other = open_clips(made_run, faint=1.0, plain=0.5, hints={"content": 0.0, "camera": 1.0})
    assert {d.presence > 0 for d in map(other.draw, range(20))} == {True, False}
    number = next(n for n in range(20) if 0 < other.draw(n).presence < 1)
    d = other.draw(number)  # between its own views, whoever the hint is of
    plain, styled = (
        to_model(read_clip(other.columns[column], d.key, d.views), SIZE)
        for column in ("render", d.style)
    )
    wanted = (1 - d.presence) * plain + d.presence * styled
    torch.testing.assert_close(other.clip(number)["target"], wanted)
    held_out = open_clips(made_run, held_out=True, faint=1.0)
    assert all(held_out.draw(number).presence == 1 for number in range(10))


def test_only_the_style_image_is_augmented(made_run: RunFolder) -> None:
    plain, changed = open_clips(made_run), open_clips(made_run, augment=True)
    for number in range(3):
        a, b, again = plain.clip(number), changed.clip(number), changed.clip(number)
        assert not torch.equal(a["style"], b["style"])
        assert torch.equal(b["style"], again["style"])
        for name in ("front", "back", "hint", "target"):
            assert torch.equal(a[name], b[name])


def test_style_image_and_target_get_the_same_other_colours(made_run: RunFolder) -> None:
    as_they_are, some = open_clips(made_run), open_clips(made_run, recolour=0.5)
    drawn = [some.draw(number) for number in range(40)]
    assert 8 < sum(d.palette is not None for d in drawn) < 32
    for number in range(6):
        a, b, palette = as_they_are.clip(number), some.clip(number), drawn[number].palette
        for name in ("front", "back", "hint"):
            assert torch.equal(a[name], b[name])
        for name in ("style", "target"):
            wanted = palette.recolour(a[name]) if palette else a[name]
            torch.testing.assert_close(b[name], wanted)
    held_out = open_clips(made_run, held_out=True, recolour=1.0)
    assert all(held_out.draw(number).palette is None for number in range(10))
    plain = open_clips(made_run, plain=0.5, recolour=1.0)
    assert all(d.presence == float(d.palette is not None) for d in map(plain.draw, range(20)))


def fix_instance(folder: RunFolder) -> RunFolder:
    """The same folder under a manifest whose style has one instance for all."""
    styles = {"statue": folder.run.styles["statue"].model_copy(update={"instance": 7})}
    return dataclasses.replace(folder, run=folder.run.model_copy(update={"styles": styles}))


def test_a_style_of_one_instance_is_shown_by_any_other_identity(made_run: RunFolder) -> None:
    clips = open_clips(fix_instance(made_run))
    references = {clips.draw(number).reference for number in range(20)}
    assert {image for _, _, image in references} == {"view_00"}
    assert {key for _, key, _ in references} == set(clips.keys)
    for number in range(4):
        drawn = clips.draw(number)
        column, key, _ = drawn.reference
        assert (column, key != drawn.key) == ("style-statue", True)
        lent = to_model(read_clip(clips.columns[column], key, [0]), SIZE)[0]
        torch.testing.assert_close(clips.clip(number)["style"], lent)


@pytest.mark.parametrize(("views", "seen"), [(4, {0}), (8, {0, 1, 7}), (16, {0, 1, 2, 14, 15})])
def test_augmented_style_images_are_seen_from_within_45_degrees(
    made_run: RunFolder, views: int, seen: set[int]
) -> None:
    clips = open_clips(fix_instance(made_run), augment=True)
    clips.rig_views = views
    drawn = [clips.draw(number) for number in range(60)]
    assert {d.reference[2] for d in drawn} == {f"view_{view:02d}" for view in seen}
    assert [clips.draw(n).reference for n in range(60)] == [d.reference for d in drawn]


def test_views_of_a_clip_are_a_drawn_stride_apart(made_run: RunFolder) -> None:
    clips = open_clips(made_run, strides=(2, 4))
    clips.rig_views = 16
    held = open_clips(made_run, held_out=True, strides=(3, 3))
    held.rig_views = 16
    drawn = [clips.draw(number).views for number in range(60)]
    assert {(b - a) % 16 for a, b in drawn} == {2, 3, 4}
    assert {a for a, _ in drawn} == set(range(16))
    assert all((b - a) % 16 == 3 for a, b in (held.draw(n).views for n in range(5)))
    assert clips.draw(7).views == drawn[7]


def test_epochs_visit_every_identity_once(made_run: RunFolder) -> None:
    clips = open_clips(made_run)
    keys = [clips.draw(number).key for number in range(12)]
    for epoch in range(4):
        assert sorted(keys[3 * epoch : 3 * epoch + 3]) == clips.keys
    assert len({tuple(keys[i : i + 3]) for i in range(0, 12, 3)}) > 1


def test_clip_is_the_same_whatever_came_before(made_run: RunFolder) -> None:
    settings = {"hints": {"camera": 1.0}, "realistic": 0.3, "augment": True}
    first, second = open_clips(made_run, **settings), open_clips(made_run, **settings)
    first.clip(3)
    a, b = first.batch(range(4, 6)), second.batch(range(4, 6))
    assert a.keys == b.keys
    for name in ("front", "back", "style", "hint", "target"):
        torch.testing.assert_close(getattr(a, name), getattr(b, name), rtol=0, atol=0)
    assert a.target.shape == (2, 2, 3, SIZE, SIZE)


def test_geometry_is_the_targets_and_comes_where_a_term_takes_it(made_run: RunFolder) -> None:
    clips = open_clips(made_run, losses={"view_consistency": 1.0})
    batch, drawn = clips.batch([0, 1]), clips.draw(1)
    assert batch.depth is not None
    assert batch.cameras is not None
    column = clips.columns[drawn.style]
    meta = column.read(drawn.key, ["json"])["json"]
    levels = read_clip(column, drawn.key, drawn.views, "depth")
    nothing = torch.from_numpy(levels == 65535)
    assert torch.equal(batch.depth[1, :, 0] == FAR, nothing)
    assert batch.background == FAR
    near, end = meta["depth"]["start"], meta["depth"]["end"]
    seen = batch.depth[1, :, 0][~nothing]
    assert ((seen > near) & (seen < end)).all()
    labels = [meta["views"][view]["label"] for view in drawn.views]
    np.testing.assert_allclose(batch.cameras[1].numpy(), labels, rtol=1e-6)


def test_held_out_clips_take_styles_in_turn_and_change_nothing(made_run: RunFolder) -> None:
    settings = {"realistic": 1.0, "augment": True}
    clips = open_clips(made_run, held_out=True, **settings)
    drawn = [clips.draw(number) for number in range(4)]
    assert {d.style for d in drawn} == {"style-statue"}
    assert {d.key for d in drawn} == {"test-00000000"}
    assert all(d.augmented is None for d in drawn)
    assert clips.batch([2]).keys == ["test-00000000"]
    with_term = open_clips(made_run, held_out=True, losses={"view_consistency": 1.0})
    assert "depth" not in with_term.clip(0)
    with pytest.raises(PipelineError, match="1 identities of split 'test'"):
        open_clips(made_run, held_out=True, hints={"content": 0.0, "camera": 1.0})
