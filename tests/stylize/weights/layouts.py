"""Files as others write them: the layers of Stable Diffusion 1.5 and its relatives in their own
names, built up the way those programs build their networks. Shapes first, numbers on demand."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Size:
    """The numbers that differ between the published networks and the tests'."""

    channels: tuple[int, ...] = (320, 640, 1280, 1280)
    attention: tuple[bool, ...] = (True, True, True, False)
    layers: int = 2
    context: int = 768
    hint: tuple[int, ...] = (16, 32, 96, 256)
    vae: tuple[int, ...] = (128, 256, 512, 512)
    text_layers: int = 12
    tokens: int = 77
    positions: int = 24


FULL = Size()
SMALL = Size((32, 64), (True, False), 1, 32, (16, 32), (32, 64), 2, 9, 6)
NOISE = 1 << 20


def linear(name: str, out: int, into: int, bias: bool = True) -> Shapes:
    return {f"{name}.weight": (out, into), **({f"{name}.bias": (out,)} if bias else {})}


def conv(name: str, out: int, into: int, kernel: int) -> Shapes:
    return {f"{name}.weight": (out, into, kernel, kernel), f"{name}.bias": (out,)}


def norm(name: str, channels: int) -> Shapes:
    return {f"{name}.weight": (channels,), f"{name}.bias": (channels,)}


def resnet(name: str, into: int, out: int, embedding: int) -> Shapes:
    shapes = norm(f"{name}.in_layers.0", into) | conv(f"{name}.in_layers.2", out, into, 3)
    shapes |= linear(f"{name}.emb_layers.1", out, embedding)
    shapes |= norm(f"{name}.out_layers.0", out) | conv(f"{name}.out_layers.3", out, out, 3)
    return shapes | (conv(f"{name}.skip_connection", out, into, 1) if into != out else {})


def attention(name: str, channels: int, context: int) -> Shapes:
    shapes = linear(f"{name}.to_q", channels, channels, bias=False)
    shapes |= linear(f"{name}.to_k", channels, context, bias=False)
    shapes |= linear(f"{name}.to_v", channels, context, bias=False)
    return shapes | linear(f"{name}.to_out.0", channels, channels)


def feed_forward(name: str, channels: int) -> Shapes:
    gated = linear(f"{name}.net.0.proj", 8 * channels, channels)
    return gated | linear(f"{name}.net.2", channels, 4 * channels)


def transformer(name: str, channels: int, context: int) -> Shapes:
    block = f"{name}.transformer_blocks.0"
    shapes = norm(f"{name}.norm", channels) | conv(f"{name}.proj_in", channels, channels, 1)
    shapes |= attention(f"{block}.attn1", channels, channels) | feed_forward(
        f"{block}.ff", channels
    )
    shapes |= attention(f"{block}.attn2", channels, context)
    for i in (1, 2, 3):
        shapes |= norm(f"{block}.norm{i}", channels)
    return shapes | conv(f"{name}.proj_out", channels, channels, 1)


def encoder(size: Size) -> tuple[Shapes, list[int]]:
    """The half of a UNet that a ControlNet has too, and the channels of its skips."""
    first, last = size.channels[0], size.channels[-1]
    embedding = 4 * first
    shapes = linear("time_embed.0", embedding, first) | linear("time_embed.2", embedding, embedding)
    shapes |= conv("input_blocks.0.0", first, 4, 3)
    skips, n, into = [first], 1, first
    for level, channels in enumerate(size.channels):
        for _ in range(size.layers):
            shapes |= resnet(f"input_blocks.{n}.0", into, channels, embedding)
            if size.attention[level]:
                shapes |= transformer(f"input_blocks.{n}.1", channels, size.context)
            into, n = channels, n + 1
            skips.append(channels)
        if level < len(size.channels) - 1:
            shapes |= conv(f"input_blocks.{n}.0.op", channels, channels, 3)
            n += 1
            skips.append(channels)
    shapes |= resnet("middle_block.0", last, last, embedding)
    shapes |= transformer("middle_block.1", last, size.context)
    return shapes | resnet("middle_block.2", last, last, embedding), skips


def unet(size: Size, head: bool = True) -> Shapes:
    shapes, skips = encoder(size)
    n, into = 0, size.channels[-1]
    for level, channels in reversed([*enumerate(size.channels)]):
        for layer in range(size.layers + 1):
            shapes |= resnet(
                f"output_blocks.{n}.0", into + skips.pop(), channels, 4 * size.channels[0]
            )
            place = 1
            if size.attention[level]:
                shapes |= transformer(f"output_blocks.{n}.1", channels, size.context)
                place = 2
            if level and layer == size.layers:
                shapes |= conv(f"output_blocks.{n}.{place}.conv", channels, channels, 3)
            into, n = channels, n + 1
    return shapes | (norm("out.0", into) | conv("out.2", 4, into, 3) if head else {})


def hint_block(size: Size) -> Shapes:
    shapes = conv("input_hint_block.0", size.hint[0], 3, 3)
    n = 2
    for into, out in zip(size.hint, size.hint[1:], strict=False):
        shapes |= conv(f"input_hint_block.{n}", into, into, 3)
        shapes |= conv(f"input_hint_block.{n + 2}", out, into, 3)
        n += 4
    return shapes | conv(f"input_hint_block.{n}", size.channels[0], size.hint[-1], 3)


def controlnet(size: Size) -> Shapes:
    shapes, skips = encoder(size)
    shapes |= hint_block(size)
    for n, channels in enumerate(skips):
        shapes |= conv(f"zero_convs.{n}.0", channels, channels, 1)
    return shapes | conv("middle_block_out.0", size.channels[-1], size.channels[-1], 1)


def vae(size: Size) -> Shapes:
    """The autoencoder, its attention written as 1x1 convolutions."""

    def block(name: str, into: int, out: int) -> Shapes:
        shapes = norm(f"{name}.norm1", into) | conv(f"{name}.conv1", out, into, 3)
        shapes |= norm(f"{name}.norm2", out) | conv(f"{name}.conv2", out, out, 3)
        return shapes | (conv(f"{name}.nin_shortcut", out, into, 1) if into != out else {})

    def middle(name: str, channels: int) -> Shapes:
        shapes = block(f"{name}.block_1", channels, channels)
        shapes |= norm(f"{name}.attn_1.norm", channels)
        for projection in ("q", "k", "v", "proj_out"):
            shapes |= conv(f"{name}.attn_1.{projection}", channels, channels, 1)
        return shapes | block(f"{name}.block_2", channels, channels)

    first, last = size.vae[0], size.vae[-1]
    shapes = conv("encoder.conv_in", first, 3, 3)
    into = first
    for level, channels in enumerate(size.vae):
        for layer in range(2):
            shapes |= block(f"encoder.down.{level}.block.{layer}", into, channels)
            into = channels
        if level < len(size.vae) - 1:
            shapes |= conv(f"encoder.down.{level}.downsample.conv", channels, channels, 3)
    shapes |= middle("encoder.mid", last) | norm("encoder.norm_out", last)
    shapes |= conv("encoder.conv_out", 8, last, 3) | conv("quant_conv", 8, 8, 1)
    shapes |= conv("post_quant_conv", 4, 4, 1) | conv("decoder.conv_in", last, 4, 3)
    shapes |= middle("decoder.mid", last)
    into = last
    for level, channels in reversed([*enumerate(size.vae)]):
        for layer in range(3):
            shapes |= block(f"decoder.up.{level}.block.{layer}", into, channels)
            into = channels
        if level:
            shapes |= conv(f"decoder.up.{level}.upsample.conv", channels, channels, 3)
    return shapes | norm("decoder.norm_out", first) | conv("decoder.conv_out", 3, first, 3)


def text(size: Size) -> Shapes:
    width = size.context
    shapes: Shapes = {
        "embeddings.token_embedding.weight": (49408, width),
        "embeddings.position_embedding.weight": (size.tokens, width),
    }
    for n in range(size.text_layers):
        layer = f"encoder.layers.{n}"
        for projection in ("k_proj", "v_proj", "q_proj", "out_proj"):
            shapes |= linear(f"{layer}.self_attn.{projection}", width, width)
        shapes |= norm(f"{layer}.layer_norm1", width) | norm(f"{layer}.layer_norm2", width)
        shapes |= linear(f"{layer}.mlp.fc1", 4 * width, width)
        shapes |= linear(f"{layer}.mlp.fc2", width, 4 * width)
    return shapes | norm("final_layer_norm", width)


def motion_module(name: str, channels: int, positions: int) -> Shapes:
    name = f"{name}.temporal_transformer"
    block = f"{name}.transformer_blocks.0"
    shapes = norm(f"{name}.norm", channels) | linear(f"{name}.proj_in", channels, channels)
    for i in (0, 1):
        shapes |= attention(f"{block}.attention_blocks.{i}", channels, channels)
        shapes[f"{block}.attention_blocks.{i}.pos_encoder.pe"] = (1, positions, channels)
        shapes |= norm(f"{block}.norms.{i}", channels)
    shapes |= feed_forward(f"{block}.ff", channels) | norm(f"{block}.ff_norm", channels)
    return shapes | linear(f"{name}.proj_out", channels, channels)


def animatediff(size: Size) -> Shapes:
    shapes: Shapes = {}
    for level, channels in enumerate(size.channels):
        for layer in range(size.layers):
            name = f"down_blocks.{level}.motion_modules.{layer}"
            shapes |= motion_module(name, channels, size.positions)
    for level, channels in enumerate(reversed(size.channels)):
        for layer in range(size.layers + 1):
            name = f"up_blocks.{level}.motion_modules.{layer}"
            shapes |= motion_module(name, channels, size.positions)
    return shapes


def diffportrait_motion(size: Size) -> Shapes:
    shapes: Shapes = {}
    for half, channels_of, count in (
        ("input", size.channels, size.layers),
        ("output", size.channels[::-1], size.layers + 1),
    ):
        each = [channels for channels in channels_of for _ in range(count)]
        for n, channels in enumerate(each):
            name = f"{half}_blocks_motion_module.{n}.0"
            shapes |= motion_module(name, channels, size.positions)
    return shapes


def prefixed(prefix: str, shapes: Shapes) -> Shapes:
    return {prefix + key: shape for key, shape in shapes.items()}


def schedule() -> Shapes:
    names = (
        "betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod",
        "sqrt_one_minus_alphas_cumprod", "log_one_minus_alphas_cumprod",
        "sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod", "posterior_variance",
        "posterior_log_variance_clipped", "posterior_mean_coef1", "posterior_mean_coef2", "logvar",
    )  # fmt: skip
    return dict.fromkeys(names, (1000,))


def common(size: Size) -> Shapes:
    shapes = schedule() | prefixed("first_stage_model.", vae(size))
    return shapes | prefixed("cond_stage_model.transformer.text_model.", text(size))


def stable_diffusion(size: Size) -> Shapes:
    return prefixed("model.diffusion_model.", unet(size)) | common(size)


def multiview(size: Size) -> Shapes:
    """DiffPortrait360's model_state: everything."""
    shapes = stable_diffusion(size) | prefixed("model.diffusion_model.", diffportrait_motion(size))
    shapes |= prefixed("control_model.", unet(size, head=False) | hint_block(size))
    return shapes | prefixed("pose_control_model.", controlnet(size))


def back_view(size: Size) -> Shapes:
    """DiffPortrait360's back_head: no motion."""
    shapes = stable_diffusion(size)
    shapes |= prefixed("control_model.", unet(size, head=False) | hint_block(size))
    return shapes | prefixed("pose_control_model.", controlnet(size))


def fill(shapes: Shapes, seed: int = 0, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Numbers for the shapes, each cut from one piece of noise at a place of its own."""
    noise = torch.randn(NOISE, generator=torch.Generator().manual_seed(seed)) * 0.05
    noise = noise.to(dtype)
    tensors: dict[str, Tensor] = {}
    for i, (key, shape) in enumerate(shapes.items()):
        count = torch.Size(shape).numel()
        begin = 0 if key.endswith(".pe") else i * 7919 % NOISE
        longer = noise if begin + count <= NOISE else noise.repeat(1 + (begin + count) // NOISE)
        tensors[key] = longer[begin : begin + count].reshape(shape).clone()
    return tensors


def number(shapes: Shapes) -> dict[str, Tensor]:
    """Tensors that take no memory: each the number of its key, expanded to its shape.

    Positional encodings are all the same, as the published ones are.
    """
    numbers = {key: -1 if key.endswith(".pe") else i for i, key in enumerate(shapes)}
    return {key: torch.tensor(float(numbers[key])).expand(shape) for key, shape in shapes.items()}


def save(path: Path, tensors: Mapping[str, Tensor], wrapped: bool = False) -> Path:
    """As .safetensors, or else as torch.save writes it."""
    if path.suffix == ".safetensors":
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path)
    else:
        content = {"global_step": 7, "state_dict": dict(tensors)} if wrapped else dict(tensors)
        torch.save(content, path)
    return path
