"""The loss of a batch of clips: the denoising error, and the terms beside it."""

import torch
from diffusers import DDIMScheduler

from stylize.attention import Banks, References
from stylize.model import DiffStyle360
from stylize.training import terms
from stylize.training.compute import computing
from stylize.training.draws import Draws
from stylize.training.settings import FinetuneSettings
from stylize.training.triplets import ENCODED, Latents, Triplets

DENOISING = "denoising"


def encode_batch(model: DiffStyle360, batch: Triplets, settings: FinetuneSettings) -> Latents:
    """What the networks see of a batch; no gradient enters the codec."""

    def encode(name: str) -> torch.Tensor:
        images: torch.Tensor = getattr(batch, name)
        if name in batch.encoded:
            return images.float()
        latents = model.encode(images.flatten(0, -4)).float()
        return latents.unflatten(0, images.shape[:-3])

    with torch.no_grad(), computing(settings, batch.target.device):
        return Latents(*map(encode, ENCODED))


def clip_losses(
    model: DiffStyle360,
    batch: Triplets,
    latents: Latents,
    draws: Draws,
    settings: FinetuneSettings,
) -> dict[str, torch.Tensor]:
    """Per clip [B]: "denoising", the mean squared error of the prediction (DDPM's simple loss), and
    each term that has a weight, before its weight; 0 for clips above `terms_below`.

    The error of a predicted sample is that before `latent_scale`.
    """
    scheduler = DDIMScheduler(**model.config.schedule())
    clean = latents.target
    views = clean.shape[1]
    times = draws.t.repeat_interleave(views)

    def per_view(x: torch.Tensor) -> torch.Tensor:  # [B, V, ...] -> [B V, ...]
        return x.flatten(0, 1)

    noisy = scheduler.add_noise(per_view(clean), per_view(draws.noise), times).view_as(clean)
    with computing(settings, clean.device):
        prediction = predict(model, noisy, batch.hint, latents, draws).float()
    unit = 1.0
    if model.config.prediction == "epsilon":
        truth = draws.noise
    elif model.config.prediction == "sample":
        truth, unit = clean, model.config.latent_scale
    else:
        truth = scheduler.get_velocity(per_view(clean), per_view(draws.noise), times).view_as(clean)
    losses = {DENOISING: ((prediction - truth) / unit).square().flatten(1).mean(1)}
    if settings.weights:
        low = (draws.t < settings.terms_below * model.config.train_timesteps).nonzero()[:, 0]
        kept = scheduler.alphas_cumprod.to(draws.t.device)[draws.t[low]]
        found = clean_latents(
            prediction[low], noisy[low], kept.view(-1, 1, 1, 1, 1), model.config.prediction
        )
        guess = terms.Guess(model, settings, batch, latents, low, found)
        for name in settings.weights:
            values = losses[DENOISING].new_zeros(len(clean))
            if len(low):
                values[low] = terms.TERMS[name](guess)
            losses[name] = values
    return losses


def total_loss(losses: dict[str, torch.Tensor], settings: FinetuneSettings) -> torch.Tensor:
    """The clips' losses, the terms weighed: [B]."""
    return losses[DENOISING] + sum(w * losses[name] for name, w in settings.weights.items())


def clean_latents(
    prediction: torch.Tensor, noisy: torch.Tensor, kept: torch.Tensor, kind: str
) -> torch.Tensor:
    """The clean latents that a prediction of some kind means; `kept`: the schedule's alpha bar."""
    if kind == "epsilon":
        return (noisy - (1 - kept).sqrt() * prediction) / kept.sqrt()
    if kind == "sample":
        return prediction
    return kept.sqrt() * noisy - (1 - kept).sqrt() * prediction


def predict(
    model: DiffStyle360, noisy: torch.Tensor, hint: torch.Tensor, latents: Latents, draws: Draws
) -> torch.Tensor:
    """The prediction [B, V, C, h, w], each clip with the parts it keeps.

    All clips go through each network together; what a clip has lost is not there for it, as in
    sampling, and brings it no gradient.
    """
    clips, views = noisy.shape[:2]
    with_content, with_style = draws.content.nonzero()[:, 0], draws.style.nonzero()[:, 0]
    content: list[Banks] = [{}] * clips
    styled: list[Banks] = [{}] * clips
    residuals = base = None
    if len(with_content):
        t = draws.t[with_content]
        banks = model.content_banks(latents.front[with_content], latents.back[with_content], t)
        for row, clip in enumerate(with_content.tolist()):
            content[clip] = _content_of(banks, row, bool(draws.back[clip]))
        seen = model.camera_residuals(
            noisy[with_content].flatten(0, 1),
            t.repeat_interleave(views),
            hint[with_content].flatten(0, 1),
        )
        residuals = [_spread(x, with_content, clips) for x in seen]
    if len(with_style):
        banks = model.style_banks(latents.style[with_style], draws.t[with_style])
        for row, clip in enumerate(with_style.tolist()):
            styled[clip] = {site: states[row : row + 1] for site, states in banks.items()}
    if model.config.hint_residual:
        base = model.encode(hint.flatten(0, 1)).view_as(noisy)
    presence = draws.presence.tolist()
    references = [References(*of) for of in zip(content, styled, presence, strict=True)]
    return model.predict(noisy, draws.t, references, residuals, base)


def _content_of(banks: Banks, row: int, back: bool) -> Banks:
    """One clip's content; without the back, the front's half of the tokens."""
    chosen = {site: states[row : row + 1] for site, states in banks.items()}
    return chosen if back else {site: states.chunk(2, 1)[0] for site, states in chosen.items()}


def _spread(x: torch.Tensor, where: torch.Tensor, clips: int) -> torch.Tensor:
    """Views of some clips [b V, ...] to their places among all clips [B V, ...], zeros between."""
    x = x.unflatten(0, (len(where), -1))
    if len(where) == clips:
        return x.flatten(0, 1)
    return x.new_zeros(clips, *x.shape[1:]).index_copy(0, where, x).flatten(0, 1)
