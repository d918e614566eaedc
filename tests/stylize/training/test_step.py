"""One step's gradient: where it goes, and that it does not depend on how the clips are cut."""

import dataclasses
import json
import os
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from safetensors.torch import load_file, save_file

from stylize.config import StylizerConfig
from stylize.model import DiffStyle360
from stylize.training import FinetuneSettings, finetune
from stylize.training.compute import frozen_in_half, recomputed
from stylize.training.step import add_gradient, mean_losses, micro_batches, sum_gradients

SETTINGS = FinetuneSettings(
    steps=2, batch=4, view_consistency=0.3, identity=0.2, style=0.1, detail=0.4, terms_below=0.9
)
LORA = {"style_encoder": "lora", "lora_rank": 2}
LAST = "up_blocks.1.attentions.1."  # the block of the last attention site
READ = ("norm.", "proj_in.", "transformer_blocks.0.norm1.")  # of it, before the bank is written


def train(model: DiffStyle360, what: str = "all") -> dict[str, torch.nn.Parameter]:
    model.requires_grad_(False)
    trained = model.trainable_parameters(what)
    for parameter in trained.values():
        parameter.requires_grad_(True)
    return trained


def gradients_of(model, make_clips, settings: FinetuneSettings):
    """The gradients and mean losses of step 1, as `finetune` computes them."""
    accelerator = Accelerator(cpu=True)
    trained = train(model, settings.train)
    rank, processes = accelerator.process_index, accelerator.num_processes
    with recomputed(model, settings), frozen_in_half(model, trained, settings):
        losses = [
            add_gradient(model, make_clips(numbers), numbers, settings)
            for numbers in micro_batches(settings, 1, rank, processes)
        ]
    sum_gradients(accelerator, trained.values())
    gradients = {n: p.grad for n, p in trained.items() if p.grad is not None}
    return gradients, mean_losses(accelerator, losses, settings)


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], rtol: float):
    assert found.keys() == expected.keys()
    scale = max(float(gradient.abs().max()) for gradient in expected.values())
    for name, gradient in expected.items():
        torch.testing.assert_close(
            found[name], gradient, rtol=rtol, atol=rtol * scale,
            msg=lambda text, name=name: f"{name}: {text}",
        )  # fmt: skip


@pytest.fixture(scope="module")
def whole(make_model, make_clips):
    return gradients_of(make_model(), make_clips, SETTINGS)


@pytest.mark.parametrize("batch", [1, 2])
def test_accumulation_gives_the_gradient_of_the_whole_batch(make_model, make_clips, whole, batch):
    settings = dataclasses.replace(SETTINGS, batch=batch, accumulate=4 // batch)
    gradients, losses = gradients_of(make_model(), make_clips, settings)
    assert_same(gradients, whole[0], 1e-5)
    assert losses == pytest.approx(whole[1], rel=1e-5)


def compute_in_a_pair(rank: int, port: int, folder: Path, model, make_clips) -> None:
    """What one of two processes does, started as `accelerate launch` would start it."""
    os.environ |= {
        "WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true",
    }  # fmt: skip
    AcceleratorState._reset_state(reset_partial_state=True)
    state = PartialState(cpu=True)
    assert state.num_processes == 2
    gradients, losses = gradients_of(model, make_clips, SETTINGS)
    save_file(gradients, folder / f"gradients-{rank}.safetensors")
    (folder / f"losses-{rank}.json").write_text(json.dumps(losses))
    finetune(
        model, make_clips, SETTINGS, folder / "run",
        log=lambda step, loss: (folder / f"log-{rank}").touch(),
    )  # fmt: skip
    state.destroy_process_group()


def test_two_processes_compute_as_one(make_model, make_clips, whole, tmp_path):
    port = 20000 + os.getpid() % 20000
    processes = [
        get_context("fork").Process(
            target=compute_in_a_pair, args=(rank, port, tmp_path, make_model(), make_clips)
        )
        for rank in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    for rank in range(2):
        assert_same(load_file(tmp_path / f"gradients-{rank}.safetensors"), whole[0], 1e-5)
        losses = json.loads((tmp_path / f"losses-{rank}.json").read_text())
        assert losses == pytest.approx(whole[1], rel=1e-5)
    assert (tmp_path / "log-0").exists()
    assert not (tmp_path / "log-1").exists()
    finetune(make_model(), make_clips, SETTINGS, tmp_path / "alone")
    pair, alone = (
        np.genfromtxt(tmp_path / name / "loss.csv", delimiter=",", names=True)
        for name in ("run", "alone")
    )
    assert pair["step"].tolist() == [0, 1]
    np.testing.assert_allclose(pair["loss"], alone["loss"], rtol=1e-4)


def test_a_plain_clip_never_sees_its_style_image(make_model, make_clips):
    settings = dataclasses.replace(SETTINGS, drop_content=0.0, drop_both=0.0, drop_style=0.0)

    def marked(numbers, strength=1.0):
        clips = make_clips(numbers)
        presence = (torch.arange(len(numbers)) >= 2).float()
        plain = (presence == 0)[:, None, None, None]
        style = torch.where(plain, strength * clips.style, clips.style)
        return dataclasses.replace(clips, style=style, presence=presence)

    settings = dataclasses.replace(settings, style=0.0)  # the term that compares with the image
    expected, losses = gradients_of(make_model(), marked, settings)
    other, same = gradients_of(make_model(), lambda n: marked(n, 0.5), settings)
    assert_same(other, expected, 1e-6)
    assert same == pytest.approx(losses)

    def every(numbers):
        return dataclasses.replace(make_clips(numbers), presence=torch.zeros(len(numbers)))

    without, _ = gradients_of(make_model(), every, settings)
    assert not any(name.startswith("style_encoder.") for name in without)
    assert any(name.startswith("style_encoder.") for name in expected)


def test_clips_are_shared_out_whole():
    settings = FinetuneSettings(steps=1, batch=5, accumulate=2)
    for processes in (1, 2, 5):
        shares = [micro_batches(settings, 3, rank, processes) for rank in range(processes)]
        assert sorted(n for share in shares for some in share for n in some) == [*range(30, 40)]
        assert all(len(some) > 0 for share in shares for some in share)


@pytest.mark.parametrize("kind", [{}, LORA, {"vae_channels": (8, 8)}], ids=str)
def test_recomputed_activations_give_the_same_gradient(make_model, make_clips, tiny, kind):
    config = dataclasses.replace(tiny, **kind)
    expected, _ = gradients_of(make_model(config), make_clips, SETTINGS)
    settings = dataclasses.replace(SETTINGS, gradient_checkpointing=True)
    model = make_model(config)
    assert_same(gradients_of(model, make_clips, settings)[0], expected, 1e-6)
    assert not model.denoiser.is_gradient_checkpointing


def is_unread(net: str, name: str) -> bool:
    """Whether a parameter lies behind the last bank that its net writes."""
    reads = net in ("reference_net", "style_encoder")
    return reads and name.startswith(LAST) and not name.removeprefix(LAST).startswith(READ)


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("what", ["all", "style"])
def test_gradients_reach_exactly_what_is_trained(
    make_model, make_clips, tiny: StylizerConfig, what: str, lora: bool
):
    """All of it but what lies behind the last bank a reference net writes."""
    model = make_model(dataclasses.replace(tiny, prompt_tokens=2, **(LORA if lora else {})))
    model.prompt.normal_()
    trained = train(model, what)
    add_gradient(model, make_clips(range(4)), range(4), FinetuneSettings(steps=1, batch=4))
    reached = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    unread = {name for name in trained if is_unread(*name.split(".", 1))}
    assert reached == trained.keys() - unread
    assert all(p.grad is None for n, p in model.named_parameters() if n not in trained)
    assert any(".lora_" in name for name in reached) == lora


@pytest.mark.parametrize(("what", "kind"), [("all", {}), ("style", LORA)])
def test_bfloat16_gives_nearly_the_same_gradient(make_model, make_clips, tiny, what, kind):
    exact = dataclasses.replace(SETTINGS, train=what)
    fast = dataclasses.replace(exact, precision="fast")
    config = dataclasses.replace(tiny, **kind)
    wanted, found = (
        torch.cat(
            [g.flatten() for g in gradients_of(make_model(config), make_clips, s)[0].values()]
        )
        for s in (exact, fast)
    )
    assert found.dtype == torch.float32
    assert torch.cosine_similarity(wanted, found, dim=0) > 0.99
    assert not torch.equal(wanted, found)
