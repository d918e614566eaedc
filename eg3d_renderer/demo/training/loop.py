"""Training: a step, its loss, the learning rate, checkpoints."""

import dataclasses
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from eg3d_renderer.demo.training.backbone import synthesize
from eg3d_renderer.demo.training.memory import Look, Plan, remember
from eg3d_renderer.demo.training.model import RENDERING_KWARGS, AllStyles
from eg3d_renderer.demo.training.rendering import channel_order, march, place_samples
from eg3d_renderer.demo.training.truth import Heads, Rays
from eg3d_renderer.errors import RendererError
from eg3d_renderer.families import PanoHead

WARM_UP = 100  # steps
MAPPING_RATE = 0.1  # of the learning rate: what the mapping was taught is to last
EMA = 0.998
EVERY = 50  # steps between rows of the curves
CURVES = ("step", "seconds", "colour", "coverage", "depth", "psnr")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Of a training from nothing.

    A step sees `batch` heads, `fresh` of them for the first time, each by `looks` of the `rays` it
    has; the others are among the last `memory` heads. Planes grow: `sizes` are pairs of a size and
    the share of the steps from which it is used. The mapping network has `lessons` before.
    """

    styles: tuple[str, ...]
    steps: int = 4900
    batch: int = 16
    fresh: int = 4
    memory: int = 1000
    rays: int = 1024
    looks: int = 384
    sizes: tuple[tuple[int, float], ...] = ((32, 0.0), (64, 0.25), (128, 0.735))
    lessons: int = 40000
    learning_rate: float = 2e-2
    seed: int = 360
    checkpoint_every: int = 250

    def size(self, step: int) -> int:
        """Of the planes at a step."""
        return max(size for size, share in self.sizes if step >= share * self.steps)


def train(
    settings: Settings,
    folder: Path,
    workers: int = 1,
    precision: torch.dtype = torch.float32,
    log: Callable[[str], None] = lambda line: None,
) -> AllStyles:
    """The model with averaged weights; goes on after the checkpoint in `folder`, if there is one.

    Planes are made in `precision`.

    Writes curves.csv, a row every EVERY steps (its seconds count from when the process began), and
    logs a line as often. Raises RendererError for
    a checkpoint that is damaged or of other settings, and FloatingPointError for a loss that is not
    finite.
    """
    folder.mkdir(parents=True, exist_ok=True)
    size = max(size for size, _ in settings.sizes)
    model = AllStyles(list(settings.styles), size, settings.seed)
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    optimizer = build_optimizer(trained)
    checkpoint, done = folder / "checkpoint.pt", 0
    if checkpoint.exists():
        saved = _load(checkpoint, settings)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        average, done = saved["average"], saved["done"]
    else:
        model.teach(settings.lessons, settings.seed)
        average = {n: p.detach().clone() for n, p in trained.items()}
    fresh = settings.steps * settings.fresh
    heads = Heads(model.styles, settings.rays, settings.seed, fresh)
    plan = Plan(settings.batch, settings.fresh, settings.memory, settings.looks, settings.seed)
    curves = folder / "curves.csv"
    _cut_curves(curves, done)
    began = time.monotonic()
    recent: list[Tensor] = []
    for step, batch in enumerate(remember(heads, plan, done, workers), start=done):
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * rate(step, settings.steps) * group["share"]
        draw = torch.Generator().manual_seed(settings.seed * 1_000_003 + step)
        losses = measure(model, batch, settings.size(step), precision, draw)
        if not math.isfinite(float(losses[0].detach())):
            raise FloatingPointError(f"step {step}: the loss is not finite")
        optimizer.zero_grad()
        losses[0].backward()
        optimizer.step()
        keep = min(EMA, (step + 1) / (step + 10))
        with torch.no_grad():
            for name, parameter in trained.items():
                average[name].lerp_(parameter, 1 - keep)
        recent.append(losses[1:].detach())
        if (step + 1) % EVERY == 0 or step + 1 == settings.steps:
            colour, coverage, depth, square = torch.stack(recent).mean(0).tolist()
            recent = []
            psnr = f"{-10 * math.log10(square):.2f}"
            values = time.monotonic() - began, colour, coverage, depth
            with curves.open("a") as file:
                file.write(",".join([str(step + 1), *(f"{v:.5g}" for v in values), psnr]) + "\n")
            log(f"step {step + 1} of {settings.steps}: {psnr} dB on what it learns from")
        if (step + 1) % settings.checkpoint_every == 0 or step + 1 == settings.steps:
            saved = {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "average": average,
                "done": step + 1,
                "settings": str(settings),
            }
            torch.save(saved, folder / ".checkpoint.pt")
            os.replace(folder / ".checkpoint.pt", checkpoint)
    model.load_state_dict(model.state_dict() | average)
    return model


def _load(path: Path, settings: Settings) -> dict[str, Any]:
    try:
        saved = torch.load(path, weights_only=True)
        made_with = saved["settings"]
    except Exception as error:  # whatever damage does to zip or pickle
        kind = type(error).__name__
        raise RendererError(f"{path}: unreadable ({kind}); remove it to begin again") from None
    if made_with != str(settings):
        raise RendererError(f"{path}: made with {made_with}; use another folder, or remove it")
    return saved


def build_optimizer(trained: dict[str, torch.nn.Parameter]) -> torch.optim.Optimizer:
    shares: dict[float, list[torch.nn.Parameter]] = {1.0: [], MAPPING_RATE: []}
    for name, parameter in trained.items():
        shares[MAPPING_RATE if "mapping" in name else 1.0].append(parameter)
    groups = [{"params": found, "share": share} for share, found in shares.items()]
    return torch.optim.Adam(groups, betas=(0.9, 0.99), fused=True)


def measure(
    model: AllStyles, batch: list[Look], size: int, precision: torch.dtype, draw: torch.Generator
) -> Tensor:
    """[5]: the loss; the absolute error of colours, the cross-entropy of coverage, the mean
    distance of what is seen from the surface in world units, the squared error of colours.

    `size` and `precision` are those of the planes; `draw` places the samples.
    """
    base, styles = model.base, [look.style for look in batch]
    depth = base.rendering_kwargs["triplane_depth"]
    span = RENDERING_KWARGS["ray_start"], RENDERING_KWARGS["ray_end"]
    box = base.settings.box
    rays = Rays(*(torch.stack(t) for t in zip(*(look.rays for look in batch), strict=True)))
    ws = model.ws(torch.stack([look.z for look in batch]), styles)
    order = channel_order(depth)
    texels = synthesize(base.backbone.synthesis, ws, order, size, precision)
    colours, opacity, weights, middles = march(
        texels,
        depth,
        base.axes,
        model.decoders(styles),
        rays,
        place_samples(rays.depths, *span, draw),
        box,
        box / 2 - PanoHead.triplane_crop,
    )
    off = colours - rays.colours
    colour, square = off.abs().mean(), off.square().mean()
    coverage = F.binary_cross_entropy(opacity.clamp(1e-4, 1 - 1e-4), rays.coverage)
    hit = rays.depths.isfinite()
    away = (middles[hit] - rays.depths[hit][:, None]).abs()
    distance = (weights[hit] * away).sum(-1).mean()
    loss = colour + 2 * square + 0.1 * coverage + 0.5 * distance
    return torch.stack([loss, colour, coverage, distance, square])


def rate(step: int, steps: int) -> float:
    """The share of the learning rate: up linearly, down as a cosine."""
    warm = min(1, (step + 1) / WARM_UP)
    return warm * (0.5 + 0.5 * math.cos(math.pi * step / steps)) * 0.99 + 0.01


def _cut_curves(path: Path, done: int) -> None:
    """Leave the rows of the first `done` steps, below the names of the columns."""
    kept = [",".join(CURVES)]
    if path.exists():
        rows = path.read_text().splitlines()[1:]
        kept += [row for row in rows if int(row.partition(",")[0]) <= done]
    partial = path.with_name(f".{path.name}")
    partial.write_text("\n".join(kept) + "\n")
    partial.replace(path)
