"""diffusers' folders: config.json and weights of one network, or of a pipeline in subfolders."""

from pathlib import Path
from typing import Any

from torch import Tensor

from stylize.config import StylizerError
from stylize.weights.files import read_json, read_tensors

PIPELINE = {"unet": "unet", "vae": "vae", "text_encoder": "text"}  # subfolder -> part
STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")  # the last two: transformers'
ENDINGS = (".safetensors", ".fp16.safetensors", ".bin", ".fp16.bin")
CONFIG = "config.json"

# what the tensors do not show, and all of Stable Diffusion 1.5's descendants share
UNET_FACTS = {
    "attention_head_dim": 8,  # the number of heads, by diffusers' old name
    "norm_num_groups": 32,
    "norm_eps": 1e-5,
    "act_fn": "silu",
    "flip_sin_to_cos": True,
    "freq_shift": 0,
}
FACTS: dict[str, dict[str, Any]] = {
    "unet": UNET_FACTS,
    "camera": UNET_FACTS | {"controlnet_conditioning_channel_order": "rgb"},
    "motion": {
        "motion_num_attention_heads": 8,
        "motion_norm_num_groups": 32,
        "use_motion_mid_block": False,
    },
    "vae": {"scaling_factor": 0.18215, "norm_num_groups": 32, "act_fn": "silu"},
    "text": {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5},
}


def read_pipeline(folder: Path) -> dict[str, dict[str, Tensor]]:
    """The tensors of a Stable Diffusion 1.5 pipeline by part: "unet", "vae" and "text".

    Raises StylizerError where a part is missing or is not of that family.
    """
    if not any((folder / name).is_dir() for name in PIPELINE):
        raise StylizerError(f"{folder}: neither a pipeline's folder nor a network's")
    parts = {}
    for name, part in PIPELINE.items():
        if not (folder / name).is_dir():
            raise StylizerError(f"{folder}: a pipeline's folder without {name}/")
        check_facts(folder / name, part)
        parts[part] = read_network(folder / name)
    scheduler = folder / "scheduler" / "scheduler_config.json"
    if scheduler.exists():
        _check(scheduler, "prediction_type", read_json(scheduler).get("prediction_type"), "epsilon")
    return parts


def read_network(folder: Path) -> dict[str, Tensor]:
    """The tensors of one network's folder. Raises StylizerError where there is no one such file."""
    for stem in STEMS:
        for ending in ENDINGS:
            if (path := folder / f"{stem}{ending}").exists():
                return read_tensors(path)
    raise StylizerError(f"{folder}: no {STEMS[0]}.safetensors in it, nor a .bin")


def check_facts(folder: Path, part: str) -> None:
    """Raises StylizerError, naming the key, where config.json contradicts Stable Diffusion 1.5."""
    path = folder / CONFIG
    config = read_json(path)
    for key, expected in FACTS.get(part, {}).items():
        _check(path, key, config.get(key), expected)
    match config:
        case {"hidden_size": int(width), "num_attention_heads": int(heads)} if part == "text":
            _check(path, "num_attention_heads", heads, text_heads(width))


def text_heads(width: int) -> int:
    """Heads of a CLIP text encoder of this width: 64 channels each, as all of OpenAI's have."""
    return max(1, width // 64)


def _check(path: Path, key: str, found: object, expected: object) -> None:
    each = found if isinstance(found, list) else [found]  # one for all levels, or one a level
    if any(value is not None and value != expected for value in each):
        raise StylizerError(
            f"{path}: {key} is {found!r}; Stable Diffusion 1.5 and its like have {expected!r}"
        )
