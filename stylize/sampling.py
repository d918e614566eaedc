"""From noise to stylized views around the head."""

import numpy as np
import torch
from diffusers import DDIMScheduler

from stylize.attention import References
from stylize.config import StylizerError
from stylize.latents import check_images, decode
from stylize.model import DiffStyle360


def stylize_views(
    model: DiffStyle360,
    front: torch.Tensor,
    back: torch.Tensor | None,
    hint: torch.Tensor,
    style: torch.Tensor,
    *,
    steps: int = 50,
    presence: float = 1.0,
    temperature: float = 1.0,
    guidance: tuple[float, float] = (1.0, 1.0),
    seed: int = 0,
) -> torch.Tensor:
    """Stylize one identity all around: [V, 3, H, W] in [-1, 1] at the hint's V cameras.

    front, back, style [3, H, W]; hint [V, 3, H, W], the views of a closed orbit in order; all in
    [-1, 1]. `guidance`: the weights (w_c, w_s) of eps_0 + w_c (eps_c - eps_0)
    + w_s (eps_cs - eps_c); a pass whose weight comes out as zero is not run, so (1, 1) is one pass.
    The result depends on the arguments alone, never on other identities. Raises StylizerError where
    a dial is out of range or an image has the wrong size.
    """
    if not 0 <= presence <= 1:
        raise StylizerError(f"presence: {presence} is not in [0, 1]")
    if not temperature > 0:
        raise StylizerError(f"temperature: {temperature} is not above 0")
    config, views = model.config, len(hint)
    scheduler = DDIMScheduler(**config.schedule())
    if not 1 <= steps <= config.train_timesteps:
        raise StylizerError(f"steps: {steps} is not in 1..{config.train_timesteps}")
    check_images(hint, config)
    scheduler.set_timesteps(steps)
    device = hint.device
    generator = torch.Generator().manual_seed(seed)
    shape = (views, config.latent_channels, config.latent_size, config.latent_size)
    latents = torch.randn(shape, generator=generator).to(device)  # [V, C, h, w]
    passes = guidance_passes(presence, guidance)
    with torch.inference_mode():
        for t in scheduler.timesteps:
            time = t.reshape(1).to(device)
            content = model.content_banks(front[None], None if back is None else back[None], time)
            styled = model.style_banks(style[None], time) if "both" in passes else {}
            references = {
                "none": References({}, {}),
                "content": References(content, {}),
                "both": References(content, styled, presence, temperature),
            }
            offset = int(torch.randint(views, (), generator=generator))
            total = torch.zeros_like(latents)
            counts = latents.new_zeros(views, 1, 1, 1)
            for window in circular_windows(views, config.window, offset):
                index = torch.from_numpy(window).to(device)
                noisy, hinted = latents[None, index], hint[None, index]
                for name, weight in passes.items():
                    prediction = model.denoise(
                        noisy, time, hinted, references[name], camera=name != "none"
                    )
                    total[index] += weight * prediction[0]
                counts[index] += 1
            step = scheduler.step(total / counts, t, latents)
            latents = step.prev_sample
    return decode(step.pred_original_sample, config).clamp(-1, 1)


def guidance_passes(presence: float, guidance: tuple[float, float]) -> dict[str, float]:
    """Weights of the passes "none", "content" and "both" whose sum is the guided prediction.

    Without style the third pass is the second, and their weights join.
    """
    content, style = guidance
    if presence == 0:
        style = 0.0
    weights = {"none": 1 - content, "content": content - style, "both": style}
    return {name: weight for name, weight in weights.items() if weight != 0}


def circular_windows(views: int, window: int, offset: int) -> list[np.ndarray]:
    """Windows of consecutive view indices modulo `views`, overlapping by a quarter or more.

    One window where all views fit; else every window is full, the starts are spread evenly over the
    circle from `offset`, and every view is covered: the seam is a place like any other.
    """
    if views <= window:
        return [(offset + np.arange(views)) % views]
    count = -(-views // (window - window // 4))
    starts = [offset + i * views // count for i in range(count)]
    return [(start + np.arange(window)) % views for start in starts]
