"""What is looked at while training goes on: clips that it never sees, and pictures."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate import Accelerator

from stylize.model import DiffStyle360
from stylize.training.checkpoints import Progress
from stylize.training.compute import computing
from stylize.training.draws import fix_validation
from stylize.training.logs import VALIDATION, Logs
from stylize.training.losses import DENOISING, clip_losses, encode_batch
from stylize.training.settings import TERMS, FinetuneSettings, is_due
from stylize.training.triplets import Triplets

ClipsAt = Callable[[Sequence[int]], Triplets]


@dataclass
class Looks:
    """When to look at the averaged weights, and how: see `finetune`."""

    accelerator: Accelerator
    settings: FinetuneSettings
    validations: Mapping[str, ClipsAt]
    on_sample: Callable[[DiffStyle360, int], None] | None

    def take(self, model: DiffStyle360, progress: Progress, logs: Logs | None) -> None:
        """What is due after the steps done. Only the process that has `logs` writes and samples."""
        settings, done = self.settings, progress.done
        validating = bool(self.validations) and is_due(settings.validate_every, done, settings)
        sampling = self.on_sample and logs and is_due(settings.sample_every, done, settings)
        if not (validating or sampling):
            return
        with averaged(progress):
            model.eval()
            if validating:
                errors = {
                    name: mean_error(self.accelerator, model, clips_at, settings)
                    for name, clips_at in self.validations.items()
                }
                if logs:
                    logs.write(VALIDATION, "validation", done, errors)
            if sampling and self.on_sample:
                with computing(settings, self.accelerator.device):
                    self.on_sample(model, done)


def mean_error(
    accelerator: Accelerator, model: DiffStyle360, clips_at: ClipsAt, settings: FinetuneSettings
) -> float:
    """The denoising error over clips 0..validation_clips-1, spread over the processes.

    Noise and timesteps are the same each time, so that its values can be compared.
    """
    no_terms: dict[str, Any] = dict.fromkeys(TERMS, 0.0)
    settings = replace(settings, **no_terms)
    device = accelerator.device
    total = torch.zeros((), device=device)
    rank, processes = accelerator.process_index, accelerator.num_processes
    with torch.no_grad():
        for number in range(rank, settings.validation_clips, processes):
            batch = clips_at([number]).to(device)
            latents = encode_batch(model, batch, settings)
            shape = latents.target.shape[1:]
            draws = fix_validation([number], shape, settings, model.config.train_timesteps)
            draws = draws.to(device).with_presence(batch.presence)
            losses = clip_losses(model, batch, latents, draws, settings)
            total += losses[DENOISING].sum()
    return float(accelerator.reduce(total, "sum")) / settings.validation_clips


@contextmanager
def averaged(progress: Progress) -> Iterator[None]:
    """Within, the trained parameters are their averages; nothing is copied."""
    _swap(progress)
    try:
        yield
    finally:
        _swap(progress)


def _swap(progress: Progress) -> None:
    for name, parameter in progress.trained.items():
        parameter.data, progress.average[name] = progress.average[name], parameter.data
