import csv
import dataclasses
import os
import random
import signal
import time
from multiprocessing import get_context

import pytest
import torch

from stylize.config import StylizerError
from stylize.training import FinetuneSettings, Triplets, finetune

SETTINGS = FinetuneSettings(
    steps=6, batch=2, learning_rate=1e-3, warmup_steps=2, checkpoint_every=2
)


def read_losses(folder):
    with (folder / "loss.csv").open() as file:
        return [(int(row["step"]), row["loss"], row["lr"]) for row in csv.DictReader(file)]


def weights_of(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def never(numbers):
    raise AssertionError("asked for data")


@pytest.fixture(scope="module")
def uninterrupted(make_small, make_clips, tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    logged = []
    model = finetune(
        make_small(), make_clips, SETTINGS, folder, log=lambda *row: logged.append(row)
    )
    return folder, weights_of(model), logged


def test_every_step_is_logged_and_checkpoints_are_pruned(uninterrupted):
    folder, _, logged = uninterrupted
    losses = read_losses(folder)
    assert [step for step, *_ in losses] == [step for step, _ in logged] == list(range(6))
    assert [float(loss) for _, loss, _ in losses] == pytest.approx([loss for _, loss in logged])
    assert sorted(p.name for p in folder.glob("[!e]*")) == [
        "checkpoint-000004", "checkpoint-000006", "loss.csv",
    ]  # fmt: skip


def train_slowly(make_small, make_clips, folder):
    def clips_at(numbers):
        time.sleep(0.1)
        return make_clips(numbers)

    finetune(make_small(), clips_at, SETTINGS, folder)


def test_killed_and_started_again_it_repeats_the_losses(
    uninterrupted, make_small, make_clips, tmp_path
):
    folder, weights, _ = uninterrupted
    process = get_context("fork").Process(
        target=train_slowly, args=(make_small, make_clips, tmp_path)
    )
    process.start()
    while not (tmp_path / "checkpoint-000002").exists() and process.is_alive():
        time.sleep(0.01)
    time.sleep(random.uniform(0, 0.3))  # anywhere in the next steps, or in writing one
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not (tmp_path / "checkpoint-000006").exists()
    model = finetune(make_small(), make_clips, SETTINGS, tmp_path)
    assert read_losses(tmp_path) == read_losses(folder)
    assert torch.equal(weights_of(model), weights)


def test_asked_to_end_it_leaves_a_checkpoint_and_goes_on_there(
    uninterrupted, make_small, make_clips, tmp_path
):
    folder, weights, _ = uninterrupted
    handler = signal.getsignal(signal.SIGTERM)

    def preempt(step, loss):
        if step == 2:  # no checkpoint is due here
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(StylizerError, match="stopped by SIGTERM after 3 of 6 steps"):
        finetune(make_small(), make_clips, SETTINGS, tmp_path, log=preempt)
    assert signal.getsignal(signal.SIGTERM) == handler
    assert (tmp_path / "checkpoint-000003").is_dir()
    model = finetune(make_small(), make_clips, SETTINGS, tmp_path)
    assert read_losses(tmp_path) == read_losses(folder)
    assert torch.equal(weights_of(model), weights)


def test_a_row_cut_short_and_rows_after_the_checkpoint_are_dropped(
    uninterrupted, make_small, make_clips, tmp_path
):
    folder, *_ = uninterrupted

    def fail_at_five(numbers):
        if 10 in numbers:
            raise RuntimeError("power cut")
        return make_clips(numbers)

    with pytest.raises(RuntimeError, match="power cut"):
        finetune(make_small(), fail_at_five, SETTINGS, tmp_path)
    assert [step for step, *_ in read_losses(tmp_path)] == [0, 1, 2, 3, 4]
    with (tmp_path / "loss.csv").open("a") as file:
        file.write("5,0.")
    finetune(make_small(), make_clips, SETTINGS, tmp_path)
    assert read_losses(tmp_path) == read_losses(folder)


def test_a_finished_run_is_returned_at_once(uninterrupted, make_small):
    folder, weights, _ = uninterrupted
    assert torch.equal(weights_of(finetune(make_small(), never, SETTINGS, folder)), weights)


def test_what_changes_no_loss_may_change(uninterrupted, make_small):
    folder, weights, _ = uninterrupted
    other = dataclasses.replace(SETTINGS, gradient_checkpointing=True, sample_every=1)
    assert torch.equal(weights_of(finetune(make_small(), never, other, folder)), weights)


def test_checkpoints_of_other_settings_are_refused(uninterrupted, make_small):
    folder, *_ = uninterrupted
    other = dataclasses.replace(SETTINGS, learning_rate=2e-3)
    with pytest.raises(StylizerError, match=r"checkpoint-000006.*other settings"):
        finetune(make_small(), never, other, folder)


def test_checkpoints_on_another_base_are_refused(make_small, make_clips, tmp_path):
    settings = dataclasses.replace(SETTINGS, steps=1, train="style")
    finetune(make_small(), make_clips, settings, tmp_path)
    other = make_small()
    with torch.no_grad():
        other.denoiser.conv_in.weight[0, 0, 0, 0] += 1
    with pytest.raises(StylizerError, match="another model"):
        finetune(other, never, settings, tmp_path)


def test_a_damaged_checkpoint_is_named(make_small, make_clips, tmp_path):
    settings = dataclasses.replace(SETTINGS, steps=1, checkpoint_every=1)
    finetune(make_small(), make_clips, settings, tmp_path)
    (tmp_path / "checkpoint-000001" / "optimizer.pt").write_bytes(b"cut")
    with pytest.raises(StylizerError, match="checkpoint-000001: unreadable") as caught:
        finetune(make_small(), make_clips, settings, tmp_path)
    assert "\n" not in str(caught.value)


def test_training_style_only_moves_only_style(make_small, make_clips, tmp_path):
    before, settings = make_small(), dataclasses.replace(SETTINGS, steps=2, train="style")
    after = finetune(make_small(), make_clips, settings, tmp_path)
    old = dict(before.named_parameters())
    moved = {n for n, p in after.named_parameters() if not torch.equal(p, old[n])}
    style = before.trainable_parameters("style").keys()
    assert moved <= style
    assert any("processor.to_v" in name for name in moved)
    assert any(name.startswith("style_encoder.") for name in moved)


def test_a_non_finite_loss_names_step_samples_and_checkpoint(make_small, make_clips, tmp_path):
    def poisoned(numbers):
        batch = make_clips(numbers)
        bad = torch.tensor([n == 7 for n in numbers]).view(-1, 1, 1, 1, 1)
        return dataclasses.replace(batch, target=torch.where(bad, torch.nan, batch.target))

    with pytest.raises(StylizerError) as caught:
        finetune(make_small(), poisoned, SETTINGS, tmp_path)
    message = str(caught.value)
    for part in ("step 3", "not finite", "samples train-00000007,", "checkpoint-000002"):
        assert part in message
    assert "\n" not in message


def test_an_exploding_loss_names_a_checkpoint_from_before_it(
    make_small, make_clips, small, tmp_path
):
    config = dataclasses.replace(small, prediction="sample")
    settings = dataclasses.replace(
        SETTINGS, steps=60, batch=1, train="style", warmup_steps=0, checkpoint_every=10
    )

    def louder(numbers):
        batch = make_clips(numbers)
        factor = 100.0 if numbers[0] >= 23 else 1.0
        return dataclasses.replace(batch, target=batch.target * factor)

    with pytest.raises(StylizerError, match=r"step 27: loss explodes.*train-00000027") as caught:
        finetune(make_small(config), louder, settings, tmp_path)
    assert "checkpoint-000020;" in str(caught.value)


def test_an_unwritable_folder_is_named(make_small, make_clips, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StylizerError, match="file"):
        finetune(make_small(), make_clips, SETTINGS, tmp_path / "file" / "run")


def test_accumulated_steps_are_those_of_the_larger_batch(make_small, make_clips, tmp_path):
    losses = []
    for batch, accumulate in ((4, 1), (2, 2)):
        settings = dataclasses.replace(SETTINGS, steps=2, batch=batch, accumulate=accumulate)
        folder = tmp_path / str(batch)
        finetune(make_small(), make_clips, settings, folder)
        losses.append([float(loss) for _, loss, _ in read_losses(folder)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_validation_and_pictures_see_the_averaged_weights(make_small, make_clips, tmp_path):
    settings = dataclasses.replace(
        SETTINGS, steps=3, validate_every=2, validation_clips=3, sample_every=3
    )
    seen, shown = [], []

    def held_out(numbers) -> Triplets:
        seen.append(list(numbers))
        return make_clips([100 + n for n in numbers])

    model = finetune(
        make_small(), make_clips, settings, tmp_path,
        validations={"seen_styles": held_out, "unseen_styles": make_clips},
        on_sample=lambda model, done: shown.append((done, weights_of(model))),
    )  # fmt: skip
    assert seen == [[0], [1], [2]] * 2
    assert [done for done, _ in shown] == [3]
    assert torch.equal(shown[0][1], weights_of(model))
    with (tmp_path / "validation.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["2", "3"]
    assert rows[0]["seen_styles"] != rows[1]["seen_styles"]
    assert set(rows[0]) == {"step", "seen_styles", "unseen_styles"}


def test_validation_computes_no_terms(make_small, make_clips, tmp_path):
    settings = dataclasses.replace(
        SETTINGS, steps=1, validate_every=1, view_consistency=1.0, terms_below=1.0
    )

    def flat(numbers) -> Triplets:
        return dataclasses.replace(make_clips(numbers), depth=None, cameras=None)

    finetune(make_small(), make_clips, settings, tmp_path, validations={"flat": flat})
    assert (tmp_path / "validation.csv").exists()


def test_looking_changes_no_loss(uninterrupted, make_small, make_clips, tmp_path):
    folder, weights, _ = uninterrupted
    settings = dataclasses.replace(SETTINGS, validate_every=1, validation_clips=1, sample_every=1)
    model = finetune(
        make_small(), make_clips, settings, tmp_path,
        validations={"seen": make_clips}, on_sample=lambda model, done: None,
    )  # fmt: skip
    assert read_losses(tmp_path) == read_losses(folder)
    assert torch.equal(weights_of(model), weights)


def test_training_in_bfloat16_gives_float32_and_leaves_the_frozen_alone(
    make_small, make_clips, tmp_path
):
    settings = dataclasses.replace(
        SETTINGS, steps=2, train="style", precision="fast", sample_every=2
    )
    dtypes = []
    model = finetune(
        make_small(), make_clips, settings, tmp_path,
        on_sample=lambda model, done: dtypes.append(model.dtype),
    )  # fmt: skip
    assert dtypes == [torch.bfloat16]
    before, trained = make_small(), model.trainable_parameters("style")
    for name, parameter in before.named_parameters():
        if name not in trained:
            assert torch.equal(model.get_parameter(name), parameter)
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_weights_stored_in_half_are_not_blown_up(make_small, make_clips, tmp_path):
    settings = dataclasses.replace(SETTINGS, steps=1, train="style", precision="fast")
    model = make_small().bfloat16()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    after = finetune(model, make_clips, settings, tmp_path)
    trained = after.trainable_parameters("style")
    for name, parameter in after.named_parameters():
        if name in trained:
            assert parameter.dtype == torch.float32, name
        else:
            assert torch.equal(parameter.bfloat16(), before[name]), name
    frozen = [after.reference_net.conv_in.weight, after.camera_net.conv_in.weight]
    assert all(parameter.dtype == torch.bfloat16 for parameter in frozen)
