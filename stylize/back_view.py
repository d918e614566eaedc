"""The back-view generator (DiffPortrait360): the back of a head from its front."""

from collections.abc import Sequence

import torch

from stylize.attention import References
from stylize.codec import check_images
from stylize.config import StylizerError
from stylize.model import DiffStyle360
from stylize.sampling import Sampling, build_scheduler


def generate_back(
    model: DiffStyle360,
    front: torch.Tensor,
    hint: torch.Tensor,
    sampling: Sampling,
    seeds: Sequence[int],
) -> torch.Tensor:
    """The backs [B, 3, H, W] in [-1, 1] of heads whose fronts are given, [B, 3, H, W].

    hint [B, 3, H, W]: any identity seen from behind. A reference net, a camera net and a UNet of
    their own, guided by `sampling.content_guidance`: the unconditional pass has neither reference
    nor camera. Raises StylizerError where the model has no back-view generator.
    """
    config = model.config
    if not config.back_view:
        raise StylizerError("this stylizer has no back-view generator; give the back view")
    check_images(front, config)
    check_images(hint, config)
    guidance = sampling.content_guidance
    scheduler = build_scheduler(sampling, config)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    shape = (config.latent_channels, config.latent_size, config.latent_size)

    def draw() -> torch.Tensor:
        return torch.stack([torch.randn(shape, generator=g) for g in generators]).to(front.device)

    prompt = model.prompt
    with torch.inference_mode():
        reference = model.encode(front)
        hint = model.back_camera_net.controlnet_cond_embedding(hint.to(model.dtype))
        latents = draw()
        for t in scheduler.timesteps:
            times = t.reshape(1).to(front.device).expand(len(latents))
            banks = model.read(model.back_reference_net, reference, times)
            noisy = latents.to(model.dtype)
            down, middle = model.back_camera_net(
                noisy, times, prompt, controlnet_cond=hint, return_dict=False
            )
            prediction = model.back_denoiser(
                noisy,
                times,
                prompt,
                cross_attention_kwargs={"references": References(banks, {})},
                down_block_additional_residuals=down,
                mid_block_additional_residual=middle,
            ).sample.float()
            if guidance != 1:
                plain = model.back_denoiser(noisy, times, prompt).sample.float()
                prediction = plain + guidance * (prediction - plain)
            extra = {"eta": sampling.eta, "variance_noise": draw()} if sampling.eta else {}
            step = scheduler.step(prediction, t, latents, **extra)
            latents = step.prev_sample
        clean = step.pred_original_sample if sampling.sampler == "ddim" else latents
        return model.decode(clean).float().clamp(-1, 1)
