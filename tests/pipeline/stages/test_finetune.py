from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from manifests.stylizer import Finetune, Losses, Validation
from pipeline.errors import PipelineError
from pipeline.folders import RunFolder
from pipeline.stages.finetune import _settings, finetune_run
from stylize import DiffStyle360, StylizerError
from tests.pipeline.conftest import make_columns

Open = Callable[..., RunFolder]


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


def test_every_setting_of_the_manifest_reaches_the_training() -> None:
    looks = Validation(every=7, clips=3, sample_every=9)
    losses = Losses(view_consistency=0.1, identity=0.2, style=0.3, detail=0.5, below=0.4)
    wanted = Finetune(
        steps=5, batch=3, accumulate=2, learning_rate=0.01, inherited_rate=0.02, train="style",
        precision="fast", gradient_checkpointing=True, checkpoint_every=4, losses=losses,
        validation=looks,
    )  # fmt: skip
    settings = _settings(wanted, 11)
    same = (
        "steps", "batch", "accumulate", "learning_rate", "inherited_rate", "train", "precision",
        "gradient_checkpointing", "checkpoint_every",
    )  # fmt: skip
    for name in same:
        assert getattr(settings, name) == getattr(wanted, name), name
    assert settings.weights == losses.model_dump(exclude={"below"})
    assert (settings.terms_below, settings.seed) == (0.4, 11)
    assert (settings.validate_every, settings.validation_clips, settings.sample_every) == (7, 3, 9)


def test_nothing_is_inherited_from_random_weights() -> None:
    assert _settings(Finetune(steps=1, learning_rate=0.01), 0).inherited_rate == 0.01


def test_what_training_takes_is_named(open_variant: Open, copied_run: RunFolder) -> None:
    folder = open_variant({"finetune": None, "stylize": None})
    with pytest.raises(PipelineError, match="no finetune section"):
        finetune_run(folder)
    for name in ("train-00000.parquet", "train-00001.parquet"):
        (copied_run.column("style-statue") / name).replace(copied_run.path / name)
    with pytest.raises(Exception, match=r"style-statue/train-00000\.parquet: missing"):
        finetune_run(copied_run)


def test_training_at_another_resolution_leaves_the_stylizers_own(
    open_variant: Open, tiny_model: Path
) -> None:
    changes = {"finetune.start": str(tiny_model), "finetune.resolution": 16, "stylize": None}
    folder = open_variant(changes)
    make_columns(folder)
    finetune_run(folder)
    trained = DiffStyle360.from_pretrained(folder.path / "stylizer")
    before = DiffStyle360.from_pretrained(tiny_model)
    assert trained.config == before.config
    weight = "denoiser.conv_in.weight"
    assert not torch.equal(trained.state_dict()[weight], before.state_dict()[weight])
    with pytest.raises(StylizerError, match="image_size: 18 is not a multiple of 4"):
        finetune_run(open_variant(changes | {"finetune.resolution": 18}))


def test_a_base_ends_with_a_style_that_is_yet_to_be_trained(open_variant: Open) -> None:
    folder = open_variant({"finetune.plain": 1.0, "styles": {}, "stylize": None})
    make_columns(folder)
    finetune_run(folder)
    state = DiffStyle360.from_pretrained(folder.path / "stylizer").state_dict()
    for name, tensor in state.items():
        if name.startswith("style_encoder."):
            assert torch.equal(tensor, state[name.replace("style_encoder.", "reference_net.")])


def test_one_identity_is_too_few(open_variant: Open) -> None:
    folder = open_variant({"identities.train": 1})
    make_columns(folder)
    with pytest.raises(PipelineError, match="1 identities of split 'train'"):
        finetune_run(folder)
