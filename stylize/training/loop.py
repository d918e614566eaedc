"""Training on triplets (content, style reference of another identity, stylized target views)."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from stylize.config import StylizerError
from stylize.model import DiffStyle360
from stylize.training import guard
from stylize.training.checkpoints import (
    Progress,
    describe_last_good,
    identify,
    load_checkpoint,
    save_checkpoint,
)
from stylize.training.compute import frozen_in_half, place, recomputed
from stylize.training.logs import LOSSES, Logs
from stylize.training.losses import DENOISING
from stylize.training.settings import FinetuneSettings, is_due, parameter_groups, rate_factor
from stylize.training.step import (
    LOSS,
    add_gradient,
    mean_losses,
    micro_batches,
    sum_gradients,
)
from stylize.training.stopping import watched
from stylize.training.triplets import Triplets
from stylize.training.validation import ClipsAt, Looks

BETAS = (0.9, 0.99)
KEYS_NAMED = 8  # of a step that went wrong


def finetune(
    model: DiffStyle360,
    clips_at: ClipsAt,
    settings: FinetuneSettings,
    folder: str | Path,
    *,
    validations: Mapping[str, ClipsAt] | None = None,
    on_sample: Callable[[DiffStyle360, int], None] | None = None,
    log: Callable[[int, float], None] | None = None,
) -> DiffStyle360:
    """Train `model` and return it with the averaged (EMA) weights, on accelerate's device; a
    back-view generator, which is not trained, stays where it is.

    `clips_at(numbers)` gives training clips as a pure function of their numbers, and is called from
    a thread; step s takes the numbers s * clips up to (s + 1) * clips, of which each process takes
    its share. `folder` receives loss.csv and checkpoint-NNNNNN/ folders; if it holds checkpoints,
    training goes on after the newest with the losses an uninterrupted run would have had.
    `validations` are clips that are not trained on, by a name that becomes a column of
    validation.csv: numbers below `validation_clips`, each `validate_every` steps. Each
    `sample_every` steps `on_sample(model, steps done)` may draw pictures; it and validations see
    the averaged weights. `log(step, loss)` is called after each step. Only the main process writes,
    samples and logs.

    SIGTERM ends it after the step at hand, with a checkpoint. Raises StylizerError then, on a loss
    or gradient that is not finite or explodes, on checkpoints of other settings or another model,
    and where a file cannot be written.
    """
    folder = Path(folder)
    accelerator = Accelerator()
    if settings.batch < accelerator.num_processes:
        raise StylizerError(
            f"finetune settings: batch: {settings.batch} clips for {accelerator.num_processes} "
            "processes; raise it, and lower accumulate"
        )
    place(model, model.trainable_parameters(settings.train), settings, accelerator.device)
    progress, identity = _start(model, settings, folder)
    held_out = validations if validations and settings.validate_every else {}
    looks = Looks(accelerator, settings, held_out, on_sample)
    logs = None
    if accelerator.is_main_process:
        columns = (LOSS, DENOISING, *settings.weights, "lr", "inherited_lr", "seconds")
        logs = Logs(folder, progress.done, columns, tuple(held_out))
    with (
        frozen_in_half(model, progress.trained, settings),
        recomputed(model, settings),
        watched(accelerator) as is_asked_to_stop,
    ):
        began = time.perf_counter()
        for step, batches in _read_ahead(clips_at, settings, accelerator, progress.done):
            means, rates = _step(accelerator, model, progress, batches, settings, step, folder)
            if logs:
                seconds = {"seconds": time.perf_counter() - began}
                logs.write(LOSSES, "train", step, means | rates | seconds)
                if log is not None:
                    log(step, means[LOSS])
            looks.take(model, progress, logs)
            stopped = is_asked_to_stop() and progress.done < settings.steps
            if logs and (stopped or is_due(settings.checkpoint_every, progress.done, settings)):
                save_checkpoint(folder, progress, identity, settings.checkpoints_kept)
            if stopped:
                accelerator.wait_for_everyone()  # for the one that writes
                raise StylizerError(
                    f"{folder}: stopped by SIGTERM after {progress.done} of {settings.steps} steps;"
                    " run the same command again to go on"
                )
            began = time.perf_counter()
    if logs:
        logs.close()
    with torch.no_grad():
        for name, parameter in progress.trained.items():
            parameter.copy_(progress.average[name])
    return model.eval()


def _start(model: DiffStyle360, settings: FinetuneSettings, folder: Path) -> tuple[Progress, dict]:
    """Everything as it is before the next step, and what a checkpoint of it is known by."""
    model.requires_grad_(False)
    trained = model.trainable_parameters(settings.train)
    for parameter in trained.values():
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(
        parameter_groups(trained, settings),
        betas=BETAS,
        weight_decay=settings.weight_decay,
        fused=True,
    )
    average = {name: parameter.detach().clone() for name, parameter in trained.items()}
    progress = Progress(trained, average, optimizer)
    identity = identify(model, trained, settings)
    load_checkpoint(folder, progress, identity)
    return progress, identity


def _step(
    accelerator: Accelerator,
    model: DiffStyle360,
    progress: Progress,
    batches: Sequence[tuple[range, Triplets]],
    settings: FinetuneSettings,
    step: int,
    folder: Path,
) -> tuple[dict[str, float], dict[str, float]]:
    """One step of the optimizer and of the average; returns the mean losses and the rates."""
    trained = list(progress.trained.values())
    for net in model.children():
        net.train(any(parameter.requires_grad for parameter in net.parameters()))
    progress.optimizer.zero_grad()
    losses = [add_gradient(model, batch, numbers, settings) for numbers, batch in batches]
    sum_gradients(accelerator, trained)
    norm = float(torch.nn.utils.clip_grad_norm_(trained, settings.clip_norm))
    means = mean_losses(accelerator, losses, settings)
    if fault := guard.find_fault(means[LOSS], norm, progress.losses):
        keys = _worst_keys(losses, [batch for _, batch in batches])
        raise StylizerError(_describe(fault, step, keys, folder))
    factor = rate_factor(settings, step)
    for group in progress.optimizer.param_groups:
        group["lr"] = factor * group["rate"]
    progress.optimizer.step()
    decay = min(settings.ema_decay, (1 + step) / (10 + step))
    with torch.no_grad():
        torch._foreach_lerp_([*progress.average.values()], [*trained], 1 - decay)
    if step >= settings.warmup_steps:
        progress.losses = guard.remembered([*progress.losses, means[LOSS]])
    progress.done = step + 1
    new, inherited = (group["lr"] for group in progress.optimizer.param_groups)
    return means, {"lr": new, "inherited_lr": inherited}


def _read_ahead(
    clips_at: ClipsAt, settings: FinetuneSettings, accelerator: Accelerator, first: int
) -> Iterator[tuple[int, list[tuple[range, Triplets]]]]:
    """The micro-batches of each step from `first` on, the next step's read beside this one's."""
    rank, processes = accelerator.process_index, accelerator.num_processes

    def read(step: int) -> list[tuple[range, Triplets]]:
        numbers = micro_batches(settings, step, rank, processes)
        return [(some, clips_at(some)) for some in numbers]

    if first >= settings.steps:
        return
    with ThreadPoolExecutor(1, thread_name_prefix="clips") as pool:
        coming = pool.submit(read, first)
        for step in range(first, settings.steps):
            batches = coming.result()
            if step + 1 < settings.steps:
                coming = pool.submit(read, step + 1)
            yield step, batches


def _worst_keys(
    losses: Sequence[dict[str, torch.Tensor]], batches: Sequence[Triplets]
) -> list[str]:
    """Keys of the step's clips on all processes, those of the largest losses first."""
    here = [
        (value, key)
        for part, batch in zip(losses, batches, strict=True)
        for value, key in zip(part[LOSS].tolist(), batch.keys, strict=True)
    ]
    pairs = gather_object(here)
    worst_first = sorted(pairs, key=lambda pair: (math.isfinite(pair[0]), -pair[0]))
    return [key for _, key in worst_first]


def _describe(fault: str, step: int, keys: list[str], folder: Path) -> str:
    named = ", ".join(keys[:KEYS_NAMED]) + (", ..." if len(keys) > KEYS_NAMED else "")
    exploded = fault.startswith("loss explodes")
    last = describe_last_good(folder, guard.RECENT - 1 if exploded else 0, step)
    return f"step {step}: {fault} on samples {named}; {last}; lower the learning rate"
