import csv
import dataclasses
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from stylize.config import StylizerError
from stylize.finetune import FinetuneSettings, denoising_loss, finetune, learning_rate

SETTINGS = FinetuneSettings(steps=6, learning_rate=1e-3, warmup_steps=2, checkpoint_every=2)

TRAIN_SCRIPT = """
import sys, time
sys.path.insert(0, sys.argv[1])
from conftest import _make_model, _make_triplets
from test_finetune import SETTINGS
from stylize.finetune import finetune

def batch_at(index):
    time.sleep(0.1)
    return _make_triplets(index)

finetune(_make_model(), batch_at, SETTINGS, sys.argv[2])
"""


def read_losses(folder):
    with (folder / "loss.csv").open() as file:
        return [(int(row["step"]), row["loss"], row["lr"]) for row in csv.DictReader(file)]


def weights_of(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.fixture(scope="module")
def uninterrupted(make_model, make_triplets, tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    logged = []
    model = finetune(
        make_model(), make_triplets, SETTINGS, folder, log=lambda *row: logged.append(row)
    )
    return folder, weights_of(model), logged


def test_every_step_is_logged_and_checkpoints_are_pruned(uninterrupted):
    folder, _, logged = uninterrupted
    losses = read_losses(folder)
    assert [step for step, *_ in losses] == [step for step, _ in logged] == list(range(6))
    assert [float(loss) for _, loss, _ in losses] == pytest.approx([loss for _, loss in logged])
    assert sorted(p.name for p in folder.iterdir()) == [
        "checkpoint-000004", "checkpoint-000006", "loss.csv",
    ]  # fmt: skip


def test_killed_and_started_again_it_repeats_the_losses(
    uninterrupted, make_model, make_triplets, tmp_path
):
    folder, weights, _ = uninterrupted
    process = subprocess.Popen(
        [sys.executable, "-c", TRAIN_SCRIPT, os.path.dirname(__file__), str(tmp_path)],
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
    )
    while not (tmp_path / "checkpoint-000002").exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "checkpoint-000006").exists()
    model = finetune(make_model(), make_triplets, SETTINGS, tmp_path)
    assert read_losses(tmp_path) == read_losses(folder)
    assert torch.equal(weights_of(model), weights)


def test_a_row_cut_short_and_rows_after_the_checkpoint_are_dropped(
    uninterrupted, make_model, make_triplets, tmp_path
):
    folder, *_ = uninterrupted

    def fail_at_five(index):
        if index == 5:
            raise RuntimeError("power cut")
        return make_triplets(index)

    with pytest.raises(RuntimeError, match="power cut"):
        finetune(make_model(), fail_at_five, SETTINGS, tmp_path)
    assert [step for step, *_ in read_losses(tmp_path)] == [0, 1, 2, 3, 4]
    with (tmp_path / "loss.csv").open("a") as file:
        file.write("5,0.")
    finetune(make_model(), make_triplets, SETTINGS, tmp_path)
    assert read_losses(tmp_path) == read_losses(folder)


def test_a_finished_run_is_returned_at_once(uninterrupted, make_model):
    folder, weights, _ = uninterrupted

    def never(index):
        raise AssertionError("asked for data")

    assert torch.equal(weights_of(finetune(make_model(), never, SETTINGS, folder)), weights)


def test_checkpoints_of_other_settings_are_refused(uninterrupted, make_model, make_triplets):
    folder, *_ = uninterrupted
    other = dataclasses.replace(SETTINGS, learning_rate=2e-3)
    with pytest.raises(StylizerError, match=r"checkpoint-000006.*other settings"):
        finetune(make_model(), make_triplets, other, folder)


def test_a_damaged_checkpoint_is_named(make_model, make_triplets, tmp_path):
    settings = dataclasses.replace(SETTINGS, steps=1, checkpoint_every=1)
    finetune(make_model(), make_triplets, settings, tmp_path)
    (tmp_path / "checkpoint-000001" / "optimizer.pt").write_bytes(b"cut")
    with pytest.raises(StylizerError, match="checkpoint-000001: unreadable") as caught:
        finetune(make_model(), make_triplets, settings, tmp_path)
    assert "\n" not in str(caught.value)


def test_training_style_only_moves_only_style(make_model, make_triplets, tmp_path):
    before, settings = make_model(), dataclasses.replace(SETTINGS, steps=2, train="style")
    after = finetune(make_model(), make_triplets, settings, tmp_path)
    old = dict(before.named_parameters())
    moved = {n for n, p in after.named_parameters() if not torch.equal(p, old[n])}
    style = before.trainable_parameters("style").keys()
    assert moved <= style
    assert any("processor.to_v" in name for name in moved)
    assert any(name.startswith("style_encoder.") for name in moved)


def test_a_non_finite_loss_names_step_samples_and_checkpoint(make_model, make_triplets, tmp_path):
    def poisoned(index):
        batch = make_triplets(index)
        return dataclasses.replace(batch, target=batch.target / (0 if index == 3 else 1))

    with pytest.raises(StylizerError) as caught:
        finetune(make_model(), poisoned, SETTINGS, tmp_path)
    message = str(caught.value)
    for part in ("step 3", "train-00000003-0", "train-00000003-1", "checkpoint-000002"):
        assert part in message
    assert "\n" not in message


def test_an_unwritable_folder_is_named(make_model, make_triplets, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StylizerError, match="file"):
        finetune(make_model(), make_triplets, SETTINGS, tmp_path / "file" / "run")


def test_noise_depends_on_seed_and_step_alone(model, triplets):
    def loss(step, seed=0):
        settings = dataclasses.replace(SETTINGS, seed=seed)
        with torch.no_grad():
            return float(denoising_loss(model, model, triplets, settings, step))

    torch.manual_seed(1)
    first = loss(3)
    torch.manual_seed(2)
    assert loss(3) == first
    assert loss(4) != first
    assert loss(3, seed=1) != first


@pytest.mark.parametrize(
    ("drops", "absent"),
    [
        ({"drop_style": 1.0}, {"style"}),
        ({"drop_content": 1.0}, {"camera", "front", "back"}),
        ({"drop_both": 1.0}, {"camera", "front", "back", "style"}),
        ({"drop_back": 1.0}, {"back"}),
        ({}, set()),
    ],
)
def test_dropout_leaves_parts_out(model, triplets, drops, absent):
    none = dict.fromkeys(("drop_style", "drop_content", "drop_both", "drop_back"), 0.0)
    settings = dataclasses.replace(SETTINGS, **{**none, **drops})
    seen = {}

    def network(noisy, t, hint, front, back, style, camera):
        seen.update(front=front, back=back, style=style, camera=True if camera else None)
        return noisy

    denoising_loss(network, model, triplets, settings, 0)
    assert {name for name, part in seen.items() if part is None} == absent


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_a_perfect_prediction_has_no_loss(make_model, tiny, triplets, prediction):
    """Each kind of truth, worked out from noisy and clean latents by its definition."""
    model = make_model(dataclasses.replace(tiny, prediction=prediction))
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000).square()
    clean = torch.nn.functional.pixel_unshuffle(triplets.target, 2)

    def oracle(noisy, t, *parts, camera):
        kept = (1 - betas).cumprod(0)[t].view(-1, 1, 1, 1, 1)
        noise = (noisy - kept.sqrt() * clean) / (1 - kept).sqrt()
        velocity = kept.sqrt() * noise - (1 - kept).sqrt() * clean
        return {"epsilon": noise, "sample": clean, "v_prediction": velocity}[prediction]

    assert denoising_loss(oracle, model, triplets, SETTINGS, 0) < 1e-6


def test_the_rate_warms_up_and_falls_to_zero():
    settings = FinetuneSettings(steps=100, learning_rate=1.0, warmup_steps=10)
    rates = [learning_rate(settings, step) for step in range(100)]
    assert rates[0] < 0.11
    assert max(rates) > 0.95
    assert rates[-1] < 0.01


@pytest.mark.parametrize("change", [{"steps": 0}, {"checkpoints_kept": 0}, {"drop_style": 0.95}])
def test_impossible_settings_are_refused(change):
    with pytest.raises(StylizerError, match="finetune settings"):
        dataclasses.replace(SETTINGS, **change)
