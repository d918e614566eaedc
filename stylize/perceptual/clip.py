"""CLIP's image tower, as such (CLIP-I) and as Contrastive Style Descriptors use it (CSD)."""

import re
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from stylize.config import StylizerError
from stylize.perceptual.weights import fill, read_finite
from stylize.weights.files import read_json

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
HEAD = 64  # channels of an attention head in every CLIP of OpenAI's

BLOCK = {  # of the OpenAI layout: of transformers'
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
OUTSIDE = {
    "class_embedding": "embeddings.class_embedding",
    "positional_embedding": "embeddings.position_embedding.weight",
    "conv1.weight": "embeddings.patch_embedding.weight",
    "ln_pre.weight": "pre_layrnorm.weight",
    "ln_pre.bias": "pre_layrnorm.bias",
    "ln_post.weight": "post_layernorm.weight",
    "ln_post.bias": "post_layernorm.bias",
}


class ClipEmbedding(torch.nn.Module):
    """Images [N, 3, H, W] in [-1, 1] to unit vectors [N, D]."""

    def __init__(self, tower: CLIPVisionModelWithProjection):
        super().__init__()
        size: Any = tower.config.image_size
        self.tower, self.size = tower, int(size)
        self.mean: torch.Tensor
        self.std: torch.Tensor
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1), persistent=False)

    @torch.inference_mode()
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        sides = (self.size, self.size)
        images = F.interpolate(images.float(), sides, mode="bicubic", antialias=True)
        pixels = ((images.clamp(-1, 1) + 1) / 2 - self.mean) / self.std
        return F.normalize(self.tower(pixel_values=pixels).image_embeds, dim=-1)


def load_clip(folder: Path) -> ClipEmbedding:
    """The image tower of a CLIP folder as transformers saves it: config.json, and the weights as
    model.safetensors or pytorch_model.bin.

    Raises StylizerError where the folder is not one.
    """
    said = read_json(folder / "config.json")
    path = folder / "model.safetensors"
    if not path.is_file():
        path = folder / "pytorch_model.bin"
    state = read_finite(path, ["vision_model.", "visual_projection."])
    state.pop("vision_model.embeddings.position_ids", None)  # of old files
    vision = said.get("vision_config", said)  # a whole CLIP's, or the tower's alone
    try:
        config = CLIPVisionConfig.from_dict(vision)
        config.projection_dim = len(state["visual_projection.weight"])
        tower = CLIPVisionModelWithProjection(config)
    except Exception as error:  # whatever a damaged config makes it raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise StylizerError(f"{folder}: no CLIP image tower ({reason[:160]})") from None
    fill(tower, state, path)
    return ClipEmbedding(tower)


def load_csd(path: Path) -> ClipEmbedding:
    """The style branch of a CSD checkpoint (Somepalli et al. 2024): its `backbone`, a CLIP image
    tower in OpenAI's layout, and `last_layer_style`.

    The sizes are read from the tensors. Raises StylizerError where one is missing or misshapen.
    """
    state = read_finite(path, ["backbone.", "last_layer_style"])
    backbone = {n.removeprefix("backbone."): t for n, t in state.items() if "backbone." in n}
    blocks = {name.split(".")[2] for name in backbone if name.startswith("transformer.resblocks.")}
    try:
        projection = state["last_layer_style"]  # [width, D]
        inner, _ = backbone["transformer.resblocks.0.mlp.c_fc.weight"].shape
        tokens, width = backbone["positional_embedding"].shape
        patch = backbone["conv1.weight"].shape[3]
        side, dimensions = round((tokens - 1) ** 0.5), projection.shape[1]
    except (KeyError, ValueError, IndexError):
        raise StylizerError(f"{path}: not CSD: a CLIP image tower and last_layer_style") from None
    config = CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=len(blocks),
        num_attention_heads=max(1, width // HEAD),
        image_size=side * patch,
        patch_size=patch,
        projection_dim=dimensions,
        hidden_act="quick_gelu",
    )
    tower = CLIPVisionModelWithProjection(config)
    fill(tower, _as_transformers(backbone, projection), path)
    return ClipEmbedding(tower)


def _as_transformers(
    backbone: dict[str, torch.Tensor], projection: torch.Tensor
) -> dict[str, torch.Tensor]:
    """The names and shapes of `CLIPVisionModelWithProjection` for a tower in OpenAI's layout."""
    renamed = {"visual_projection.weight": projection.T.contiguous()}
    for name, tensor in backbone.items():
        match = re.fullmatch(r"transformer\.resblocks\.(\d+)\.(.+)[._](weight|bias)", name)
        if match is None:
            if name in OUTSIDE:
                renamed[f"vision_model.{OUTSIDE[name]}"] = tensor
            continue
        layer, part, kind = f"vision_model.encoder.layers.{match[1]}", match[2], match[3]
        if part == "attn.in_proj":
            for letter, third in zip("qkv", tensor.chunk(3), strict=True):
                renamed[f"{layer}.self_attn.{letter}_proj.{kind}"] = third
        elif part in BLOCK:
            renamed[f"{layer}.{BLOCK[part]}.{kind}"] = tensor
    return renamed
