"""From noise to stylized views around the head."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler

from stylize.attention import Banks, References
from stylize.banks import BankCache
from stylize.codec import check_images
from stylize.config import StylizerConfig, StylizerError
from stylize.model import DiffStyle360

SAMPLERS = ("ddim", "dpm++", "unipc")
STARTS = ("noise", "hint")
FEW, NOISY = 10, 0.8  # from so many steps on, the first is in the noisiest fifth of the schedule
LATENT_PIXELS_AT_ONCE = 48 * 64 * 64  # through the denoiser: 48 views of 512 px, about 5 GB in bf16


@dataclass(frozen=True)
class Sampling:
    """How to sample. `sampler`: "ddim" (Song et al. 2021, with `eta`), "dpm++" (DPM-Solver++, Lu et
    al. 2022) or "unipc" (Zhao et al. 2023), of diffusers.

    `start`: the first latents are "noise", or the hint's own noised to the first timestep ("hint",
    DiffPortrait360's 3D-aware start). `presence`, `temperature`, `gated`: as in
    `attention.References`. `content_guidance`, `style_guidance`: the weights of
    eps_0 + w_c (eps_c - eps_0) + w_s (eps_cs - eps_c); a pass whose weight comes out as zero is not
    run, so (1, 1) is one pass, and w_c = w_s are two.
    """

    steps: int = 50
    sampler: str = "ddim"
    eta: float = 0.0
    start: str = "noise"
    presence: float = 1.0
    temperature: float = 1.0
    gated: bool = True
    content_guidance: float = 1.0
    style_guidance: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.presence <= 1:
            raise StylizerError(f"presence: {self.presence} is not in [0, 1]")
        for name in ("content_guidance", "style_guidance"):
            if not 0 <= getattr(self, name) < math.inf:
                raise StylizerError(f"{name}: {getattr(self, name)} is not a weight >= 0")
        if not self.temperature > 0:
            raise StylizerError(f"temperature: {self.temperature} is not above 0")
        if self.sampler not in SAMPLERS:
            raise StylizerError(f"sampler: {self.sampler!r} is not one of {', '.join(SAMPLERS)}")
        if not 0 <= self.eta <= 1:
            raise StylizerError(f"eta: {self.eta} is not in [0, 1]")
        if self.start not in STARTS:
            raise StylizerError(f"start: {self.start!r} is not one of {', '.join(STARTS)}")
        if self.eta and self.sampler != "ddim":
            raise StylizerError(f"eta: {self.eta} is of ddim alone, the sampler is {self.sampler}")


def stylize_views(
    model: DiffStyle360,
    front: torch.Tensor,
    back: torch.Tensor | None,
    hint: torch.Tensor,
    style: torch.Tensor,
    sampling: Sampling,
    seeds: Sequence[int],
    *,
    style_banks: BankCache | None = None,
    content_banks: BankCache | None = None,
    at_once: int | None = None,
) -> torch.Tensor:
    """Stylize B identities all around: [B, V, 3, H, W] in [-1, 1] at the hints' V cameras.

    front, back [B, 3, H, W]; hint [B, V, 3, H, W], the views of a closed orbit in order; style
    [3, H, W], of all, or [B, 3, H, W]; all in [-1, 1]. `seeds`: of each identity's noise. An
    identity's result does not depend on the others beyond rounding. `style_banks` keeps the style's
    states for later calls, `content_banks` the contents' (worth it where the same contents follow
    in other styles). `at_once`: how many views the denoiser takes at a time, else `views_at_once`.
    Raises StylizerError where an image has the wrong size.
    """
    config = model.config
    at_once = at_once or views_at_once(config)
    batch, views = hint.shape[:2]
    for images in (front, hint, style) if back is None else (front, back, hint, style):
        check_images(images, config)
    device = hint.device
    scheduler = build_scheduler(sampling, config)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    shape = (views, config.latent_channels, config.latent_size, config.latent_size)

    def draw() -> torch.Tensor:
        return torch.stack([torch.randn(shape, generator=g) for g in generators]).to(device)

    passes = guidance_passes(sampling)
    with torch.inference_mode():
        styles = model.encode(style.reshape(-1, *style.shape[-3:]))
        contents = [model.encode(images) for images in (front, back) if images is not None]
        hint_latents = None
        if config.hint_residual or sampling.start == "hint":
            hint_latents = model.encode(hint.flatten(0, 1)).float().unflatten(0, (batch, views))
        embedded = model.embed_hint(hint.flatten(0, 1))
        latents = draw()  # [B, V, C, h, w]
        if sampling.start == "hint":
            latents = scheduler.add_noise(hint_latents, latents, scheduler.timesteps[:1])
        content: Banks = {}
        styled: Banks = {}
        for number, t in enumerate(scheduler.timesteps):
            time = t.reshape(1).to(device)
            if number == 0 or config.reference_timestep == "same":
                content = _content_banks(model, contents, time, content_banks)
                if "both" in passes:
                    styled = _style_banks(model, styles, time, style_banks)
            residuals = None
            if passes.keys() != {"none"}:
                residuals = _camera_residuals(model, latents, time, embedded, at_once)
            base = hint_latents if config.hint_residual else None
            known = _Known(time, content, styled, residuals, base)
            offsets = [int(torch.randint(views, (), generator=g)) for g in generators]
            windows = torch.stack(
                [circular_windows(views, config.window, offset) for offset in offsets]
            ).to(device)  # [B, W, n]
            prediction = _predict_windows(model, latents, windows, known, passes, sampling, at_once)
            extra = {"eta": sampling.eta, "variance_noise": draw()} if sampling.eta else {}
            step = scheduler.step(prediction, t, latents, **extra)
            latents = step.prev_sample
        clean = step.pred_original_sample if sampling.sampler == "ddim" else latents
        images = model.decode(clean.flatten(0, 1)).unflatten(0, (batch, views))
    return images.float().clamp(-1, 1)


def build_scheduler(
    sampling: Sampling, config: StylizerConfig
) -> DDIMScheduler | DPMSolverMultistepScheduler | UniPCMultistepScheduler:
    """The sampler with its timesteps set: each of the schedule's `steps`-th part, from the least.

    Raises StylizerError for a number that cannot be, or that would begin far below full noise.
    """
    most = config.train_timesteps // 2
    if not 1 <= sampling.steps <= most:
        raise StylizerError(f"steps: {sampling.steps} is not in 1..{most}")
    scheduler = DDIMScheduler(**config.schedule())
    if sampling.sampler == "dpm++":
        scheduler = DPMSolverMultistepScheduler.from_config(scheduler.config)
    elif sampling.sampler == "unipc":
        scheduler = UniPCMultistepScheduler.from_config(scheduler.config)
    scheduler.set_timesteps(sampling.steps)
    first = int(scheduler.timesteps[0])
    if sampling.steps >= FEW and first < NOISY * config.train_timesteps:
        raise StylizerError(
            f"steps: {sampling.steps} would begin at timestep {first} of "
            f"{config.train_timesteps}, where an image is no noise yet; take 50, or a divisor"
        )
    return scheduler


def guidance_passes(sampling: Sampling) -> dict[str, float]:
    """Weights of the passes "none", "content" and "both" whose sum is the guided prediction.

    Without style the third pass is the second, and their weights join.
    """
    content = sampling.content_guidance
    style = sampling.style_guidance if sampling.presence > 0 else 0.0
    weights = {"none": 1 - content, "content": content - style, "both": style}
    return {name: weight for name, weight in weights.items() if weight != 0}


def circular_windows(views: int, window: int, offset: int) -> torch.Tensor:
    """Windows [W, n] of consecutive view indices modulo `views`, overlapping by a quarter or more.

    One window where all views fit; else every window is full, the starts are spread evenly over the
    circle from `offset`, and every view is covered: the seam is a place like any other.
    """
    if views <= window:
        return (offset + torch.arange(views)).unsqueeze(0) % views
    count = -(-views // (window - window // 4))
    starts = torch.tensor([offset + i * views // count for i in range(count)])
    return (starts.unsqueeze(1) + torch.arange(window)) % views


@dataclass(frozen=True)
class _Known:
    """What a step knows of all views before the denoiser runs."""

    time: torch.Tensor  # [1]
    content: Banks
    styled: Banks
    residuals: list[torch.Tensor] | None  # of the camera net, [B, V, c, h, w]
    hint_latents: torch.Tensor | None  # [B, V, C, h, w]


def _content_banks(
    model: DiffStyle360, latents: list[torch.Tensor], time: torch.Tensor, cache: BankCache | None
) -> Banks:
    front, back = latents[0], latents[1] if len(latents) > 1 else None
    times = time.expand(len(front))

    def compute() -> Banks:
        return model.content_banks(front, back, times)

    if cache is None:
        return compute()
    read = (model.prompt, *latents)
    return cache.get(model.reference_net, read, model.reference_time(time), compute)


def _style_banks(
    model: DiffStyle360, latents: torch.Tensor, time: torch.Tensor, cache: BankCache | None
) -> Banks:
    def compute() -> Banks:
        return model.style_banks(latents, time.expand(len(latents)))

    if cache is None:
        return compute()
    read = (model.prompt, latents)
    return cache.get(model.style_encoder, read, model.reference_time(time), compute)


def _camera_residuals(
    model: DiffStyle360,
    latents: torch.Tensor,
    time: torch.Tensor,
    embedded: torch.Tensor,
    at_once: int,
) -> list[torch.Tensor]:
    """Residuals of every view, once for all the windows and passes it is in: [B, V, c, h, w]."""
    noisy = latents.flatten(0, 1)
    parts = [
        model.camera_residuals(part, time.expand(len(part)), hint)
        for part, hint in zip(noisy.split(at_once), embedded.split(at_once), strict=True)
    ]
    return [
        torch.cat(residual).unflatten(0, latents.shape[:2]) for residual in zip(*parts, strict=True)
    ]


def _predict_windows(
    model: DiffStyle360,
    latents: torch.Tensor,
    windows: torch.Tensor,
    known: _Known,
    passes: dict[str, float],
    sampling: Sampling,
    at_once: int,
) -> torch.Tensor:
    """The guided prediction [B, V, C, h, w], averaged over the windows [B, W, n] of each view.

    As many clips as fit go through the denoiser at once, those of all passes side by side: whole
    identities, or some windows of one.
    """
    batch, count, length = windows.shape
    fitting = max(1, at_once // (length * len(passes)))
    identities, fitting = max(1, fitting // count), min(count, fitting)
    total = torch.zeros_like(latents)
    hits = latents.new_zeros(latents.shape[:2])
    for first in range(0, batch, identities):
        rows = torch.arange(first, min(first + identities, batch), device=latents.device)
        references = _references(known, rows, batch, passes, sampling)
        for start in range(0, count, fitting):
            index = windows[rows, start : start + fitting]  # [b, w, n]
            where = (rows[:, None, None].expand_as(index), index)
            noisy = latents[where].flatten(0, 1)  # [b w, n, C, h, w]
            predictions = model.predict(
                torch.cat([noisy] * len(passes)),
                known.time.expand(len(noisy) * len(passes)),
                references,
                _residuals(known, where, passes),
                None
                if known.hint_latents is None
                else torch.cat([known.hint_latents[where].flatten(0, 1)] * len(passes)),
            ).chunk(len(passes))
            guided = torch.zeros_like(noisy)
            for weight, prediction in zip(passes.values(), predictions, strict=True):
                guided += weight * prediction.float()
            total.index_put_(where, guided.view_as(latents[where]), accumulate=True)
            hits.index_put_(where, torch.ones_like(index, dtype=hits.dtype), accumulate=True)
    return total / hits[..., None, None, None]


def _references(
    known: _Known, rows: torch.Tensor, batch: int, passes: dict[str, float], sampling: Sampling
) -> list[References]:
    """What each pass attends to, for some of the identities."""

    def select(banks: Banks) -> Banks:
        return {s: x if len(x) < batch else x[rows] for s, x in banks.items()}

    content, styled = select(known.content), select(known.styled)
    dials = sampling.presence, sampling.temperature, sampling.gated
    branches = {
        "none": References({}, {}),
        "content": References(content, {}),
        "both": References(content, styled, *dials),
    }
    return [branches[name] for name in passes]


def _residuals(
    known: _Known, where: tuple[torch.Tensor, torch.Tensor], passes: dict[str, float]
) -> list[torch.Tensor] | None:
    """The camera net's residuals of some clips, side by side for all passes; none for "none"."""
    if known.residuals is None:
        return None
    selected = [residual[where].flatten(0, 2) for residual in known.residuals]
    return [
        torch.cat([torch.zeros_like(x) if name == "none" else x for name in passes])
        for x in selected
    ]


def views_at_once(config: StylizerConfig) -> int:
    """How many views the denoiser takes at a time."""
    return max(1, LATENT_PIXELS_AT_ONCE // config.latent_size**2)
