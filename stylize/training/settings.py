"""How to train."""

import math
from dataclasses import dataclass

from torch import nn

from stylize.config import StylizerError
from stylize.model import TRAIN

PRECISIONS = ("exact", "fast")
TERMS = "view_consistency", "identity", "style", "detail"  # fields, and functions of `terms`
INHERITED_SHARE = 0.1  # of the rate, where the inherited parts are given none


@dataclass(frozen=True)
class FinetuneSettings:
    """How to train. Rates fall along a cosine to zero after a linear warm-up.

    A step is `accumulate` micro-batches of `batch` clips each, over all processes; its gradient is
    that of all those clips at once. train: "all" or "style" (see
    `DiffStyle360.trainable_parameters`). `learning_rate` is that of new parts, `inherited_rate` of
    those that start as a copy of trained weights (None: a tenth of it); see `is_new`. precision:
    "exact" (float32) or "fast" (bfloat16 where it hardly shows; what is trained stays float32).
    `gradient_checkpointing` computes activations twice instead of keeping them: the same gradients
    in less memory. The dropout probabilities are those of leaving out the style, the content
    (references and camera net), both, or the back view, drawn for each clip; where only the style
    is trained, it is never left out.

    `view_consistency`, `identity`, `style`, `detail` weigh the terms of `training.terms`, on clips
    whose timestep is below `terms_below` of the schedule. All are 0: of the first three none was
    shown to pay on a demo model.
    """

    steps: int
    batch: int = 2
    accumulate: int = 1
    learning_rate: float = 1e-4
    inherited_rate: float | None = None
    warmup_steps: int = 20
    weight_decay: float = 1e-2
    clip_norm: float = 1.0
    ema_decay: float = 0.999
    train: str = "all"
    seed: int = 0
    precision: str = "exact"
    gradient_checkpointing: bool = False
    drop_style: float = 0.10
    drop_content: float = 0.05
    drop_both: float = 0.05
    drop_back: float = 0.10
    view_consistency: float = 0.0
    identity: float = 0.0
    style: float = 0.0
    detail: float = 0.0
    terms_below: float = 0.3
    checkpoint_every: int = 100
    checkpoints_kept: int = 2
    validate_every: int | None = None
    validation_clips: int = 8
    sample_every: int | None = None

    def __post_init__(self) -> None:
        for problem in self._problems():
            raise StylizerError(f"finetune settings: {problem}")

    def _problems(self) -> list[str]:
        counts = ("steps", "batch", "accumulate", "checkpoint_every", "checkpoints_kept")
        optional = ("validate_every", "validation_clips", "sample_every")
        problems = [f"{name} must be at least 1" for name in counts if getattr(self, name) < 1]
        problems += [
            f"{name} must be at least 1" for name in optional if getattr(self, name) == 0
        ]  # None is never
        drops = ("drop_style", "drop_content", "drop_both", "drop_back")
        problems += [
            f"{name}: {getattr(self, name)} is not in [0, 1]"
            for name in (*drops, "terms_below")
            if not 0 <= getattr(self, name) <= 1
        ]
        problems += [
            f"{name} must be above 0"
            for name in ("learning_rate", "inherited_rate", "clip_norm")
            if getattr(self, name) is not None and not getattr(self, name) > 0
        ]
        if not 0 <= self.ema_decay < 1:
            problems.append(f"ema_decay: {self.ema_decay} is not in [0, 1)")
        if not self.drop_style + self.drop_content + self.drop_both <= 1:
            problems.append("dropout probabilities add up to more than 1")
        if self.train not in TRAIN:
            problems.append(f"train: {self.train!r} is not one of {TRAIN}")
        if self.precision not in PRECISIONS:
            problems.append(f"precision: {self.precision!r} is not one of {PRECISIONS}")
        problems += [
            f"{name} must not be negative"
            for name in (*TERMS, "warmup_steps", "weight_decay")
            if not getattr(self, name) >= 0
        ]
        return problems

    @property
    def weights(self) -> dict[str, float]:
        """Of the loss's terms that are not 0."""
        return {name: getattr(self, name) for name in TERMS if getattr(self, name) > 0}

    @property
    def clips(self) -> int:
        """Of a step, over all processes and micro-batches."""
        return self.batch * self.accumulate


def rate_factor(settings: FinetuneSettings, step: int) -> float:
    """What both learning rates are multiplied with at a step."""
    warm = min(1.0, (step + 1) / max(1, settings.warmup_steps))
    return warm * (0.5 + 0.5 * math.cos(math.pi * step / settings.steps))


def is_new(name: str) -> bool:
    """Whether a parameter of this name starts from nothing: appearance, gates, low-rank updates.

    The style encoder starts as the reference net and the style projections as the denoiser's, and
    all else is the base's: these are inherited.
    """
    return ".lora_" in name or ".processor.appearance." in name or ".processor.gate." in name


def parameter_groups(trained: dict[str, nn.Parameter], settings: FinetuneSettings) -> list[dict]:
    """The optimizer's groups, new and inherited, each with its full rate as `rate`."""
    inherited = settings.inherited_rate
    if inherited is None:
        inherited = INHERITED_SHARE * settings.learning_rate
    return [
        {"params": [p for name, p in trained.items() if is_new(name) == new], "rate": rate}
        for new, rate in ((True, settings.learning_rate), (False, inherited))
    ]


def is_due(every: int | None, done: int, settings: FinetuneSettings) -> bool:
    """Whether something that happens `every` steps (None: never), and at the end, does now."""
    return every is not None and (done % every == 0 or done == settings.steps)
