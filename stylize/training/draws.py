"""What is random about a training step: noise, timesteps and dropout, each drawn for one clip.

A clip's draws follow from the seed and its number alone, so they are the same however the clips of
a step are cut into micro-batches and spread over processes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from stylize.training.settings import FinetuneSettings

TRAINING, VALIDATION = 0, 1  # streams of draws


@dataclass(frozen=True)
class Draws:
    """For B clips; `content`, `back`, `style` say which clips keep that part (content: references
    and camera net), `presence` how much the style weighs."""

    noise: torch.Tensor  # [B, V, C, h, w]
    t: torch.Tensor  # [B]
    content: torch.Tensor  # [B], bool
    back: torch.Tensor
    style: torch.Tensor
    presence: torch.Tensor  # [B], above 0 where the style is kept

    def to(self, device: torch.device) -> "Draws":
        """The same on a device."""
        return Draws(**{name: tensor.to(device) for name, tensor in vars(self).items()})

    def with_presence(self, presence: torch.Tensor | None) -> "Draws":
        """The same, the style as present as it is in each clip [B]; at 0 it is left out."""
        if presence is None:
            return self
        return replace(self, presence=presence, style=self.style & (presence > 0))


def draw_training(
    numbers: Sequence[int], shape: Sequence[int], settings: FinetuneSettings, timesteps: int
) -> Draws:
    """The draws of the training clips of these numbers; shape [V, C, h, w] of their latents."""
    noise, t, kept = [], [], []
    for number in numbers:
        generator = _generator(settings.seed, TRAINING, number)
        noise.append(torch.randn(*shape, generator=generator))
        t.append(torch.randint(timesteps, (), generator=generator))
        kept.append(_keep_parts(settings, *torch.rand(2, generator=generator).tolist()))
    content, back, style = torch.tensor(kept).unbind(1)
    every = torch.ones(len(numbers))
    return Draws(torch.stack(noise), torch.stack(t), content, back, style, presence=every)


def fix_validation(
    numbers: Sequence[int], shape: Sequence[int], settings: FinetuneSettings, timesteps: int
) -> Draws:
    """The same noise and timesteps at every validation, these spread evenly over the schedule; all
    parts are kept."""
    noise = [
        torch.randn(*shape, generator=_generator(settings.seed, VALIDATION, number))
        for number in numbers
    ]
    spread = (torch.tensor(list(numbers)) + 0.5) / settings.validation_clips
    every = torch.ones(len(numbers), dtype=torch.bool)
    times = (spread * timesteps).long()
    return Draws(torch.stack(noise), times, every, every, every, presence=every.float())


def _keep_parts(
    settings: FinetuneSettings, which: float, back_draw: float
) -> tuple[bool, bool, bool]:
    """Whether a clip keeps its content, its back view and its style."""
    without_content = settings.drop_both + settings.drop_content
    back = back_draw >= settings.drop_back
    style = settings.train == "style"  # without it, nothing that is trained would take part
    if which < settings.drop_both:
        return False, False, style
    if which < without_content:
        return False, False, True
    return True, back, style or which >= without_content + settings.drop_style


def _generator(seed: int, stream: int, number: int) -> torch.Generator:
    words = np.random.SeedSequence([seed, stream, number]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(words[0] >> np.uint64(1)))
