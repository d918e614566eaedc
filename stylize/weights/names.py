"""How other programs name the weights of Stable Diffusion's networks, and what diffusers does.

A rule turns the start of a key into another; `{down}`, `{up}` and the like stand for a number and
say how blocks are counted there:

    input_blocks.7.0.in_layers.2.weight -> down_blocks.2.resnets.0.conv1.weight
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache

from stylize.config import StylizerError


@dataclass(frozen=True)
class Counts:
    """What the numbers in a network's keys depend on: read off the keys by `count_blocks`."""

    layers: int  # resnets of a level on the way down
    levels: int
    hint: int  # number of the last layer of the hint's embedding


@dataclass(frozen=True)
class Rule:
    """`old` at the start of a key becomes `new`, and the next part of it what `inner` says.

    Without `inner` the rest stays; with it, a rest that is not named there makes the key unknown.
    `linear`: a 1x1 convolution there is a linear layer here.
    """

    old: str
    new: str
    inner: tuple[tuple[str, str], ...] = ()
    linear: bool = False


# a number n among others -> what stands in for {block} and {layer}; None: the rule does not hold
Numbering = Callable[[int, Counts], tuple[int, int] | None]
NUMBERINGS: dict[str, Numbering] = {
    # 0 is conv_in; then, a level, its resnets and a downsampler
    "down": lambda n, counts: divmod(n - 1, counts.layers + 1),
    "up": lambda n, counts: divmod(n, counts.layers + 1),
    "even": lambda n, counts: divmod(n, counts.layers),  # a level's motion modules on the way down
    "reversed": lambda n, counts: (counts.levels - 1 - n, 0),
    "hint": lambda n, counts: (n // 2 - 1, 0) if n % 2 == 0 and 0 < n < counts.hint else None,
    "last": lambda n, counts: (0, 0) if n == counts.hint else None,
}

RESNET = (
    ("in_layers.0", "norm1"),
    ("in_layers.2", "conv1"),
    ("emb_layers.1", "time_emb_proj"),
    ("out_layers.0", "norm2"),
    ("out_layers.3", "conv2"),
    ("skip_connection", "conv_shortcut"),
)
ENCODER = (
    Rule("time_embed.0.", "time_embedding.linear_1."),
    Rule("time_embed.2.", "time_embedding.linear_2."),
    Rule("input_blocks.0.0.", "conv_in."),
    Rule("input_blocks.{down}.0.op.", "down_blocks.{block}.downsamplers.0.conv."),
    Rule("input_blocks.{down}.0.", "down_blocks.{block}.resnets.{layer}.", RESNET),
    Rule("input_blocks.{down}.1.", "down_blocks.{block}.attentions.{layer}."),
    Rule("middle_block.0.", "mid_block.resnets.0.", RESNET),
    Rule("middle_block.1.", "mid_block.attentions.0."),
    Rule("middle_block.2.", "mid_block.resnets.1.", RESNET),
)
UNET = (
    *ENCODER,
    # a level without attention has its upsampler in the second place
    Rule("output_blocks.{up}.1.conv.", "up_blocks.{block}.upsamplers.0.conv."),
    Rule("output_blocks.{up}.2.conv.", "up_blocks.{block}.upsamplers.0.conv."),
    Rule("output_blocks.{up}.0.", "up_blocks.{block}.resnets.{layer}.", RESNET),
    Rule("output_blocks.{up}.1.", "up_blocks.{block}.attentions.{layer}."),
    Rule("out.0.", "conv_norm_out."),
    Rule("out.2.", "conv_out."),
)
CONTROLNET = (
    *ENCODER,
    Rule("input_hint_block.0.", "controlnet_cond_embedding.conv_in."),
    Rule("input_hint_block.{last}.", "controlnet_cond_embedding.conv_out."),
    Rule("input_hint_block.{hint}.", "controlnet_cond_embedding.blocks.{block}."),
    Rule("zero_convs.{n}.0.", "controlnet_down_blocks.{n}."),
    Rule("middle_block_out.0.", "controlnet_mid_block."),
)

VAE_RESNET = (
    ("norm1", "norm1"),
    ("conv1", "conv1"),
    ("norm2", "norm2"),
    ("conv2", "conv2"),
    ("nin_shortcut", "conv_shortcut"),
)
VAE_ATTENTION = (
    ("norm", "group_norm"),
    ("q", "to_q"),
    ("k", "to_k"),
    ("v", "to_v"),
    ("proj_out", "to_out.0"),
)


def _vae_half(half: str) -> tuple[Rule, ...]:
    return (
        Rule(f"{half}.conv_in.", f"{half}.conv_in."),
        Rule(f"{half}.mid.block_1.", f"{half}.mid_block.resnets.0.", VAE_RESNET),
        Rule(f"{half}.mid.attn_1.", f"{half}.mid_block.attentions.0.", VAE_ATTENTION, linear=True),
        Rule(f"{half}.mid.block_2.", f"{half}.mid_block.resnets.1.", VAE_RESNET),
        Rule(f"{half}.norm_out.", f"{half}.conv_norm_out."),
        Rule(f"{half}.conv_out.", f"{half}.conv_out."),
    )


VAE = (
    *_vae_half("encoder"),
    Rule("encoder.down.{n}.block.{m}.", "encoder.down_blocks.{n}.resnets.{m}.", VAE_RESNET),
    Rule("encoder.down.{n}.downsample.conv.", "encoder.down_blocks.{n}.downsamplers.0.conv."),
    *_vae_half("decoder"),
    Rule("decoder.up.{reversed}.block.{m}.", "decoder.up_blocks.{block}.resnets.{m}.", VAE_RESNET),
    Rule("decoder.up.{reversed}.upsample.conv.", "decoder.up_blocks.{block}.upsamplers.0.conv."),
    Rule("quant_conv.", "quant_conv."),
    Rule("post_quant_conv.", "post_quant_conv."),
)
OLD_VAE_ATTENTION = (
    ("group_norm", "group_norm"),
    *((new, new) for new in ("to_q", "to_k", "to_v", "to_out.0")),
    ("query", "to_q"),
    ("key", "to_k"),
    ("value", "to_v"),
    ("proj_attn", "to_out.0"),
)
_VAE_ATTENTIONS = ("encoder.mid_block.attentions.0.", "decoder.mid_block.attentions.0.")
DIFFUSERS = (Rule("", ""),)
DIFFUSERS_VAE = (  # Stable Diffusion's own folders were written before diffusers renamed these
    *(Rule(start, start, OLD_VAE_ATTENTION) for start in _VAE_ATTENTIONS),
    *DIFFUSERS,
)

MOTION_BLOCK = (
    # both attentions hold the same constants; diffusers adds one encoding before each
    ("attention_blocks.0.pos_encoder.pe", "pos_embed.pe"),
    ("attention_blocks.1.pos_encoder.pe", "pos_embed.pe"),
    ("attention_blocks.0", "attn1"),
    ("attention_blocks.1", "attn2"),
    ("norms.0", "norm1"),
    ("norms.1", "norm2"),
    ("ff_norm", "norm3"),
    ("ff", "ff"),
)


def _motion_modules(old: str, new: str) -> tuple[Rule, ...]:
    old += "temporal_transformer."
    blocks = "transformer_blocks.{n}."
    return Rule(old + blocks, new + blocks, MOTION_BLOCK), Rule(old, new)


ANIMATEDIFF = (
    *_motion_modules("down_blocks.{i}.motion_modules.{j}.", "down_blocks.{i}.motion_modules.{j}."),
    *_motion_modules("up_blocks.{i}.motion_modules.{j}.", "up_blocks.{i}.motion_modules.{j}."),
)
DIFFPORTRAIT_MOTION = (
    *_motion_modules(
        "input_blocks_motion_module.{even}.0.", "down_blocks.{block}.motion_modules.{layer}."
    ),
    *_motion_modules(
        "output_blocks_motion_module.{up}.0.", "up_blocks.{block}.motion_modules.{layer}."
    ),
)
# transformers dropped this first name in 5.x; files have it or not
CLIP_TEXT = (Rule("text_model.", ""), *DIFFUSERS)


def count_blocks(keys: Iterable[str], source: str) -> Counts:
    """How many layers and levels the network has whose LDM keys these are.

    Raises StylizerError, naming `source`, for a UNet whose levels cannot be told apart.
    """
    keys = list(keys)

    def numbers(pattern: str) -> list[int]:
        return [int(match[1]) for match in map(re.compile(pattern).match, keys) if match]

    downsamplers = numbers(r"input_blocks\.(\d+)\.0\.op\.")
    if not downsamplers and numbers(r"input_blocks\.(\d+)\."):
        raise StylizerError(f"{source}: no downsampling in input_blocks, not Stable Diffusion's")
    return Counts(
        layers=min(downsamplers, default=2) - 1,
        levels=max(numbers(r"encoder\.down\.(\d+)\."), default=0) + 1,
        hint=max(numbers(r"input_hint_block\.(\d+)\."), default=0),
    )


def rename(key: str, rules: Iterable[Rule], counts: Counts) -> tuple[str, bool] | None:
    """diffusers' name of `key`, and whether it is a convolution there and linear here.

    None where no rule holds.
    """
    for rule in rules:
        match = _pattern(rule.old).match(key)
        if match is None:
            continue
        fields = _fields({name: int(n) for name, n in match.groupdict().items()}, counts)
        rest = _rename_inner(key[match.end() :], rule.inner)
        if fields is not None and rest is not None:
            return rule.new.format(**fields) + rest, rule.linear
    return None


@cache
def _pattern(old: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>\\d+)", re.escape(old)))


def _fields(numbers: Mapping[str, int], counts: Counts) -> dict[str, int] | None:
    fields = dict(numbers)
    for name, number in numbers.items():
        if name in NUMBERINGS:
            place = NUMBERINGS[name](number, counts)
            if place is None or min(place) < 0:
                return None
            fields["block"], fields["layer"] = place
    return fields


def _rename_inner(rest: str, inner: tuple[tuple[str, str], ...]) -> str | None:
    for old, new in inner:
        if rest == old or rest.startswith(f"{old}."):
            return new + rest[len(old) :]
    return None if inner else rest
