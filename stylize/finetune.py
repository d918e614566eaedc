"""Training on triplets (content, style reference of another identity, stylized target views)."""

import csv
import dataclasses
import json
import math
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from diffusers import DDIMScheduler
from safetensors.torch import save_file
from torch import nn

from stylize.config import StylizerError
from stylize.latents import encode
from stylize.model import DiffStyle360
from stylize.storage import load_state, name_write_errors, replaced_folder

LOSS_COLUMNS = ("step", "loss", "lr", "seconds")
CHECKPOINT = "checkpoint-"
BETAS = (0.9, 0.99)


@dataclass(frozen=True)
class Triplets:
    """B clips; images float32 in [-1, 1] at the model's image size.

    front, back: content, 0 and 180 degrees. style: another identity in the target's style instance.
    hint, target: V consecutive views, plain and stylized. keys: one sample key per clip.
    """

    front: torch.Tensor  # [B, 3, H, W]
    back: torch.Tensor  # [B, 3, H, W]
    style: torch.Tensor  # [B, 3, H, W]
    hint: torch.Tensor  # [B, V, 3, H, W]
    target: torch.Tensor  # [B, V, 3, H, W]
    keys: list[str]


@dataclass(frozen=True)
class FinetuneSettings:
    """How to train. Rates fall along a cosine to zero after a linear warm-up.

    train: "all" or "style" (see `DiffStyle360.trainable_parameters`). The dropout probabilities are
    those of leaving out the style, the content (references and camera net), both, or the back view,
    drawn once per micro-batch: what is left out takes no part in the graph, as in sampling.
    """

    steps: int
    learning_rate: float = 1e-4
    warmup_steps: int = 20
    weight_decay: float = 1e-2
    clip_norm: float = 1.0
    ema_decay: float = 0.999
    train: str = "all"
    seed: int = 0
    drop_style: float = 0.10
    drop_content: float = 0.05
    drop_both: float = 0.05
    drop_back: float = 0.10
    checkpoint_every: int = 100
    checkpoints_kept: int = 2

    def __post_init__(self) -> None:
        for name in ("steps", "checkpoint_every", "checkpoints_kept"):
            if getattr(self, name) < 1:
                raise StylizerError(f"finetune settings: {name} must be at least 1")
        if not self.drop_style + self.drop_content + self.drop_both <= 1:
            raise StylizerError("finetune settings: dropout probabilities add up to more than 1")


def finetune(
    model: DiffStyle360,
    batch_at: Callable[[int], Triplets],
    settings: FinetuneSettings,
    folder: str | Path,
    *,
    log: Callable[[int, float], None] | None = None,
) -> DiffStyle360:
    """Train `model` and return it with the averaged (EMA) weights.

    `batch_at(i)` gives micro-batch i as a pure function of i; process r of n asks for step * n + r.
    `folder` receives loss.csv and checkpoint-NNNNNN/ folders; if it holds checkpoints, training
    goes on after the newest with the losses an uninterrupted run would have had. `log(step, loss)`
    is called after each step. Raises StylizerError on a non-finite loss or gradient, on checkpoints
    of other settings or another model, and where a file cannot be written.
    """
    folder = Path(folder)
    ddp = DistributedDataParallelKwargs(find_unused_parameters=True)  # dropout leaves parts out
    accelerator = Accelerator(kwargs_handlers=[ddp])
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    trained = model.trainable_parameters(settings.train)
    for parameter in trained.values():
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(
        trained.values(), settings.learning_rate, BETAS, weight_decay=settings.weight_decay
    )
    average = {name: parameter.detach().clone() for name, parameter in trained.items()}
    first = _resume(folder, model, average, optimizer, settings)
    average = {name: tensor.to(accelerator.device) for name, tensor in average.items()}
    network, optimizer = accelerator.prepare(model, optimizer)
    rank, processes = accelerator.process_index, accelerator.num_processes
    if accelerator.is_main_process:
        _truncate_losses(folder / "loss.csv", first)
    network.train()
    for step in range(first, settings.steps):
        began = time.perf_counter()
        rate = learning_rate(settings, step)
        for group in optimizer.param_groups:
            group["lr"] = rate
        batch = batch_at(step * processes + rank)
        loss = denoising_loss(network, model, batch, settings, step, rank)
        optimizer.zero_grad()
        accelerator.backward(loss)
        norm = accelerator.clip_grad_norm_(trained.values(), settings.clip_norm)
        value = float(accelerator.reduce(loss.detach(), "mean"))
        if not (math.isfinite(value) and math.isfinite(norm)):
            raise StylizerError(_diverged(folder, step, value, batch.keys))
        optimizer.step()
        decay = min(settings.ema_decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(average.values()), list(trained.values()), 1 - decay)
        if accelerator.is_main_process:
            _append_loss(folder / "loss.csv", step, value, rate, time.perf_counter() - began)
            done = step + 1
            if done % settings.checkpoint_every == 0 or done == settings.steps:
                _save_checkpoint(folder, done, model, average, optimizer, settings)
        if log is not None:
            log(step, value)
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(average[name])
    return model.eval()


def denoising_loss(
    network: nn.Module,
    model: DiffStyle360,
    batch: Triplets,
    settings: FinetuneSettings,
    step: int,
    rank: int = 0,
) -> torch.Tensor:
    """Mean squared error of the prediction, one timestep per clip (DDPM's simple loss).

    Noise, timesteps and dropout come from a generator seeded by (seed, step, rank). `network` is
    `model`, possibly wrapped for distributed training.
    """
    config = model.config
    device = next(model.parameters()).device
    words = np.random.SeedSequence([settings.seed, step, rank]).generate_state(1, np.uint64)
    generator = torch.Generator().manual_seed(int(words[0] >> np.uint64(1)))
    scheduler = DDIMScheduler(**config.schedule())
    clips, views = batch.target.shape[:2]
    clean = encode(batch.target.flatten(0, 1).to(device), config)  # [B V, C, h, w]
    noise = torch.randn(clean.shape, generator=generator).to(device)
    t = torch.randint(config.train_timesteps, (clips,), generator=generator).to(device)
    per_view = t.repeat_interleave(views)
    noisy = scheduler.add_noise(clean, noise, per_view)
    front, back, style, camera = _drop_parts(batch, settings, torch.rand(2, generator=generator))
    front, back, style = (x if x is None else x.to(device) for x in (front, back, style))
    prediction = network(
        noisy.unflatten(0, (clips, views)), t, batch.hint.to(device), front, back, style,
        camera=camera,
    )  # fmt: skip
    if config.prediction == "epsilon":
        truth = noise
    elif config.prediction == "sample":
        truth = clean
    else:
        truth = scheduler.get_velocity(clean, noise, per_view)
    return (prediction.flatten(0, 1) - truth).square().mean()


def learning_rate(settings: FinetuneSettings, step: int) -> float:
    warm = min(1.0, (step + 1) / max(1, settings.warmup_steps))
    return settings.learning_rate * warm * (0.5 + 0.5 * math.cos(math.pi * step / settings.steps))


def _drop_parts(
    batch: Triplets, settings: FinetuneSettings, draws: torch.Tensor
) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None, bool]:
    """front, back and style, the drawn ones None, and whether the camera net takes part."""
    which, back_draw = draws.tolist()
    without_content = settings.drop_both + settings.drop_content
    back = None if back_draw < settings.drop_back else batch.back
    if which < settings.drop_both:
        return None, None, None, False
    if which < without_content:
        return None, None, batch.style, False
    if which < without_content + settings.drop_style:
        return batch.front, back, None, True
    return batch.front, back, batch.style, True


def _save_checkpoint(
    folder: Path,
    done: int,
    model: DiffStyle360,
    average: dict[str, torch.Tensor],
    optimizer: torch.optim.Optimizer,
    settings: FinetuneSettings,
) -> None:
    with replaced_folder(folder / f"{CHECKPOINT}{done:06d}") as partial:
        save_file(model.state_dict(), partial / "model.safetensors")
        save_file(average, partial / "average.safetensors")
        torch.save(optimizer.state_dict(), partial / "optimizer.pt")
        (partial / "state.json").write_text(json.dumps(_identity(model, settings)))
    for old in _checkpoints(folder)[: -settings.checkpoints_kept]:
        shutil.rmtree(old)


def _resume(
    folder: Path,
    model: DiffStyle360,
    average: dict[str, torch.Tensor],
    optimizer: torch.optim.Optimizer,
    settings: FinetuneSettings,
) -> int:
    """Load the newest checkpoint into everything given; returns the next step, 0 without one."""
    checkpoints = _checkpoints(folder)
    if not checkpoints:
        return 0
    newest = checkpoints[-1]
    try:
        made_by = json.loads((newest / "state.json").read_text())
        optimizer_state = torch.load(newest / "optimizer.pt", "cpu", weights_only=True)
    except Exception as error:  # whatever damage does to JSON, zip or pickle
        kind = type(error).__name__
        raise StylizerError(f"{newest}: unreadable ({kind}); remove it to go on") from None
    if made_by != _identity(model, settings):
        raise StylizerError(
            f"{newest}: made with other settings or another model; use another folder or remove it"
        )
    model.load_state_dict(load_state(newest / "model.safetensors", model.state_dict()))
    average.update(load_state(newest / "average.safetensors", average))
    optimizer.load_state_dict(optimizer_state)
    return int(newest.name.removeprefix(CHECKPOINT))


def _identity(model: DiffStyle360, settings: FinetuneSettings) -> dict:
    """What must agree for a run to be continued, as JSON gives it back."""
    return json.loads(
        json.dumps({"config": model.config.to_json(), "settings": dataclasses.asdict(settings)})
    )


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob(CHECKPOINT + "[0-9]*"))


def _diverged(folder: Path, step: int, loss: float, keys: list[str]) -> str:
    checkpoints = _checkpoints(folder)
    last = f"last good checkpoint {checkpoints[-1]}" if checkpoints else "no checkpoint yet"
    return (
        f"step {step}: loss or gradient is not finite (loss {loss}) on samples {', '.join(keys)}; "
        f"{last}; lower the learning rate"
    )


def _truncate_losses(path: Path, first: int) -> None:
    """Keep the rows before step `first`; an absent file starts with its header."""
    partial = path.with_name(f".{path.name}.partial")
    with name_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        rows: list[list[str]] = []
        if path.exists():
            with path.open(newline="") as file:
                whole = (row for row in csv.reader(file) if len(row) == len(LOSS_COLUMNS))
                rows = [row for row in whole if row[0].isdigit() and int(row[0]) < first]
        with partial.open("w", newline="") as file:
            csv.writer(file).writerows([LOSS_COLUMNS, *rows])
        os.replace(partial, path)


def _append_loss(path: Path, step: int, loss: float, rate: float, seconds: float) -> None:
    with name_write_errors(path), path.open("a", newline="") as file:
        csv.writer(file).writerow([step, f"{loss:.9g}", f"{rate:.6g}", f"{seconds:.4f}"])
