from collections.abc import Callable

import numpy as np
import pytest
import torch

from pipeline.errors import PipelineError
from pipeline.folders import RunFolder
from pipeline.images import to_model
from pipeline.shards.reader import Column, read_clip
from pipeline.stages.finetune import Clips, finetune_run
from tests.pipeline.conftest import make_columns

Open = Callable[..., RunFolder]


def open_clips(folder: RunFolder, camera: float = 0.0) -> Clips:
    assert folder.run.finetune is not None
    hints = folder.run.finetune.hints.model_copy(update={"content": 1 - camera, "camera": camera})
    return Clips(folder, folder.run.finetune.model_copy(update={"hints": hints}), 32)


def test_clip_is_content_style_and_target_of_one_identity(made_run: RunFolder) -> None:
    clips = open_clips(made_run)
    render, style = (Column(made_run.column(name)) for name in ("render", "style-statue"))
    for number in range(6):
        clip = clips.clip(number)
        key = clip["key"]
        content = to_model(read_clip(render, key, range(4)), 32)
        styled = to_model(read_clip(style, key, range(4)), 32)
        torch.testing.assert_close(clip["front"], content[0])
        torch.testing.assert_close(clip["back"], content[2])
        start = next(s for s in range(4) if torch.equal(styled[s], clip["target"][0]))
        views = [start, (start + 1) % 4]
        torch.testing.assert_close(clip["target"], styled[views])
        torch.testing.assert_close(clip["hint"], content[views])
        reference = style.read(key, ["reference_00.rgb"])["reference_00.rgb.png"]
        torch.testing.assert_close(clip["style"], to_model(reference[None], 32)[0])


def test_camera_hint_is_never_the_content(made_run: RunFolder) -> None:
    clips = open_clips(made_run, camera=1.0)
    render = Column(made_run.column("render"))
    views = {key: to_model(read_clip(render, key, range(4)), 32) for key in clips.keys}
    for number in range(9):
        clip = clips.clip(number)
        shown = {
            key
            for key, images in views.items()
            for view in images
            if torch.equal(view, clip["hint"][0])
        }
        assert shown
        assert clip["key"] not in shown


def test_epochs_visit_every_identity_once(made_run: RunFolder) -> None:
    clips = open_clips(made_run)
    keys = [clips.clip(number)["key"] for number in range(12)]
    for epoch in range(4):
        assert sorted(keys[3 * epoch : 3 * epoch + 3]) == clips.keys
    assert len({tuple(keys[i : i + 3]) for i in range(0, 12, 3)}) > 1


def test_clip_is_the_same_whatever_came_before(made_run: RunFolder) -> None:
    first, second = open_clips(made_run, 0.5), open_clips(made_run, 0.5)
    first.clip(3)
    a, b = first.batch(range(4, 6)), second.batch(range(4, 6))
    assert a.keys == b.keys
    for name in ("front", "back", "style", "hint", "target"):
        torch.testing.assert_close(getattr(a, name), getattr(b, name), rtol=0, atol=0)
    assert a.target.shape == (2, 2, 3, 32, 32)


def test_training_leaves_a_stylizer_and_a_loss_for_each_step(made_run: RunFolder) -> None:
    assert (made_run.stylizer / "model.safetensors").is_file()
    losses = np.genfromtxt(made_run.checkpoints / "loss.csv", delimiter=",", names=True)
    assert losses["step"].tolist() == [0, 1]
    assert np.isfinite(losses["loss"]).all()


def test_training_again_gives_the_same_bytes(made_run: RunFolder, copied_run: RunFolder) -> None:
    before = (made_run.stylizer / "model.safetensors").read_bytes()
    for path in (*copied_run.checkpoints.rglob("*"), *copied_run.stylizer.iterdir()):
        if path.is_file():
            path.unlink()
    for path in copied_run.checkpoints.glob("checkpoint-*"):
        path.rmdir()
    finetune_run(copied_run)
    assert (copied_run.stylizer / "model.safetensors").read_bytes() == before


def test_what_training_takes_is_named(open_variant: Open, copied_run: RunFolder) -> None:
    folder = open_variant({"finetune": None, "stylize": None})
    with pytest.raises(PipelineError, match="no finetune section"):
        finetune_run(folder)
    for name in ("train-00000.parquet", "train-00001.parquet"):
        (copied_run.column("style-statue") / name).replace(copied_run.path / name)
    with pytest.raises(Exception, match=r"style-statue/train-00000\.parquet: missing"):
        finetune_run(copied_run)


def test_one_identity_is_too_few(open_variant: Open) -> None:
    folder = open_variant({"identities.train": 1})
    make_columns(folder)
    with pytest.raises(PipelineError, match="1 identities of split 'train'"):
        finetune_run(folder)
