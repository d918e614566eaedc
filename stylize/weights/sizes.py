"""A stylizer's configuration, read off the shapes of the networks it is made from."""

import re

from torch import Tensor

from stylize.config import StylizerConfig, StylizerError
from stylize.weights.sources import Part

# facts of Stable Diffusion 1.5 that no tensor shows
HEADS = 8
GROUPS = 32
LATENT_SCALE = 0.18215
# the embedding of a ControlNet's hint, for each halving
HINT_CHANNELS = (16, 32, 96, 256)

PE = ".transformer_blocks.0.pos_embed.pe"


def derive_config(
    unet: Part,
    motion: Part | None,
    camera: Part | None,
    vae: Part,
    prompt: Tensor,
    *,
    image_size: int,
    window: int,
    lora_rank: int,
    back_view: bool,
) -> StylizerConfig:
    """The config of these parts; prompt [1, tokens, D].

    A part that is None gets the sizes it has with Stable Diffusion 1.5. `lora_rank` 0: the style
    encoder has weights of its own. Raises StylizerError for shapes that make no such stylizer, and
    for a window longer than the motion modules' positional encoding.
    """
    channels = _channels(unet, "down_blocks")
    vae_channels = _channels(vae, "encoder.down_blocks")
    hint = HINT_CHANNELS[: len(vae_channels)] if camera is None else _hint_channels(camera)
    return StylizerConfig(
        image_size=image_size,
        latent_factor=2 ** (len(vae_channels) - 1),
        channels=channels,
        attention=tuple(_has(unet, f"down_blocks.{i}.attentions.") for i in range(len(channels))),
        motion=(1,) * len(channels) if motion is None else _motion_layers(motion, len(channels)),
        layers=_count(unet, r"down_blocks\.0\.resnets"),
        heads=HEADS,
        groups=GROUPS,
        cross_attention_dim=prompt.shape[2],
        hint_channels=hint,
        window=window,
        latent_scale=LATENT_SCALE,
        vae_channels=vae_channels,
        prompt_tokens=prompt.shape[1],
        positions=0 if motion is None else _positions(motion, window),
        style_encoder="lora" if lora_rank else "copy",
        lora_rank=lora_rank,
        back_view=back_view,
    )


def _channels(net: Part, blocks: str) -> tuple[int, ...]:
    levels = _count(net, re.escape(blocks))
    return tuple(_size(net, f"{blocks}.{i}.resnets.0.conv1.weight", 0) for i in range(levels))


def _hint_channels(camera: Part) -> tuple[int, ...]:
    embedding = "controlnet_cond_embedding."
    halvings = _count(camera, re.escape(f"{embedding}blocks")) // 2
    last = [_size(camera, f"{embedding}blocks.{2 * i + 1}.weight", 0) for i in range(halvings)]
    return _size(camera, f"{embedding}conv_in.weight", 0), *last


def _motion_layers(motion: Part, levels: int) -> tuple[int, ...]:
    return tuple(
        _count(motion, rf"down_blocks\.{i}\.motion_modules\.0\.transformer_blocks")
        for i in range(levels)
    )


def _positions(motion: Part, window: int) -> int:
    positions = _size(motion, f"down_blocks.0.motion_modules.0{PE}", 1)
    if window > positions:
        raise StylizerError(
            f"{motion.source}: its positional encoding knows {positions} places, "
            f"a window of {window} does not fit"
        )
    return positions


def _count(net: Part, blocks: str) -> int:
    """How many numbers occur behind `blocks` (a pattern)."""
    numbered = re.compile(rf"{blocks}\.(\d+)\.")
    return len({match[1] for match in map(numbered.match, net.tensors) if match})


def _has(net: Part, start: str) -> bool:
    return any(name.startswith(start) for name in net.tensors)


def _size(net: Part, name: str, dimension: int) -> int:
    if name not in net.tensors or net.tensors[name].ndim <= dimension:
        raise StylizerError(f"{net.source}: no {name} that would tell the sizes")
    return net.tensors[name].shape[dimension]
