"""The gradient of one step: the same however its clips are cut and spread."""

from collections.abc import Iterable, Sequence

import torch
from accelerate import Accelerator
from torch import nn

from stylize.model import DiffStyle360
from stylize.training.draws import draw_training
from stylize.training.losses import DENOISING, clip_losses, encode_batch, total_loss
from stylize.training.settings import FinetuneSettings
from stylize.training.triplets import Triplets

LOSS = "loss"
BUCKET = 64 * 2**20 // 4  # float32 numbers sent at once


def micro_batches(settings: FinetuneSettings, step: int, rank: int, processes: int) -> list[range]:
    """The numbers of the clips that one process takes in each micro-batch of a step."""
    firsts = (step * settings.clips + i * settings.batch for i in range(settings.accumulate))
    return [range(first + rank, first + settings.batch, processes) for first in firsts]


def add_gradient(
    model: DiffStyle360, batch: Triplets, numbers: Sequence[int], settings: FinetuneSettings
) -> dict[str, torch.Tensor]:
    """Add a micro-batch's share of the step's gradient; returns its clips' losses, [B] each.

    "loss" is what the step minimises the mean of, over all clips of the step.
    """
    batch = batch.to(next(model.parameters()).device)
    latents = encode_batch(model, batch, settings)
    shape = latents.target.shape[1:]
    draws = draw_training(numbers, shape, settings, model.config.train_timesteps)
    draws = draws.to(latents.target.device).with_presence(batch.presence)
    losses = clip_losses(model, batch, latents, draws, settings)
    losses[LOSS] = total_loss(losses, settings)
    (losses[LOSS].sum() / settings.clips).backward()
    return {name: values.detach() for name, values in losses.items()}


def sum_gradients(accelerator: Accelerator, parameters: Iterable[nn.Parameter]) -> None:
    """Add the gradients of all processes up, on all of them.

    What took part in no process keeps no gradient, as with one process: dropout leaves parts out,
    and an optimizer must not see zeros there.
    """
    if accelerator.num_processes == 1:
        return
    parameters = list(parameters)
    here = [int(p.grad is not None) for p in parameters]
    counts = accelerator.reduce(torch.tensor(here, device=accelerator.device), "sum").tolist()
    used = [p for p, count in zip(parameters, counts, strict=True) if count]
    for parameter in used:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    for bucket in _buckets([p.grad for p in used if p.grad is not None]):
        summed = accelerator.reduce(torch.cat([g.flatten() for g in bucket]), "sum")
        parts = summed.split([g.numel() for g in bucket])
        for gradient, part in zip(bucket, parts, strict=True):
            gradient.copy_(part.view_as(gradient))


def mean_losses(
    accelerator: Accelerator, losses: Sequence[dict[str, torch.Tensor]], settings: FinetuneSettings
) -> dict[str, float]:
    """Means over all clips of a step: "loss", "denoising" and each term that has a weight."""
    names = (LOSS, DENOISING, *settings.weights)
    sums = torch.stack([torch.cat([part[name] for part in losses]).sum() for name in names])
    means = accelerator.reduce(sums, "sum") / settings.clips
    return dict(zip(names, means.tolist(), strict=True))


def _buckets(gradients: Sequence[torch.Tensor]) -> list[list[torch.Tensor]]:
    buckets: list[list[torch.Tensor]] = []
    size = BUCKET
    for gradient in gradients:
        if size + gradient.numel() > BUCKET:
            buckets.append([])
            size = 0
        buckets[-1].append(gradient)
        size += gradient.numel()
    return buckets
