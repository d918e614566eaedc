"""What a user brings, told apart into the networks in it, under diffusers' names.

Stable Diffusion 1.5   pipeline folder, or one file in the layout it was trained in (LDM)
AnimateDiff v1         one file, or a MotionAdapter's folder
ControlNet             one file in the LDM layout, or a folder
DiffPortrait360        one file in the LDM layout, motion modules and all
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from stylize.config import StylizerError
from stylize.storage import list_names
from stylize.weights import names
from stylize.weights.checks import check_tensor
from stylize.weights.files import read_tensors
from stylize.weights.folders import CONFIG, check_facts, read_network, read_pipeline

# matched at the start: "control_model." is a part of "pose_control_model." too
PREFIXES = {
    "model.diffusion_model.": "unet",
    "pose_control_model.": "camera",
    "appearance_control_model.": "reference",  # X-Portrait's name
    "control_model.": "reference",  # DiffPortrait's; in a ControlNet's own file, "camera"
    "first_stage_model.": "vae",
    "cond_stage_model.transformer.": "text",
}
LDM = {
    "unet": names.UNET,
    "motion": names.DIFFPORTRAIT_MOTION,
    "reference": names.UNET,
    "camera": names.CONTROLNET,
    "vae": names.VAE,
    "text": names.CLIP_TEXT,
}
PIPELINE_RULES = {"unet": names.DIFFUSERS, "vae": names.DIFFUSERS_VAE, "text": names.CLIP_TEXT}
MOTION_KEY = re.compile(r"(input|output)_blocks_motion_module\.")

IGNORED = {  # keys in the file -> why they are of no use
    r"(betas|alphas_.*|sqrt_.*|log_one_minus_.*|posterior_.*|lvlb_weights|logvar|scale_factor)$": (
        "of the noise schedule"
    ),
    r"model_ema\.": "running averages",
    r"first_stage_model\.loss\.": "training losses",
    r"(.*\.)?embeddings\.position_ids$": "constants",
}
# of a reference net only the states inside are read
UNREAD = re.compile(r"(input_hint_block|zero_convs|middle_block_out|out)\.")
OTHERS = (  # start of a key -> what the file is
    ("conditioner.embedders.", "Stable Diffusion XL"),
    ("cond_stage_model.model.", "Stable Diffusion 2"),
    ("model.diffusion_model.joint_blocks.", "Stable Diffusion 3"),
)


@dataclass(frozen=True)
class Part:
    """One network as a source holds it."""

    source: str  # path, for errors and reports
    tensors: dict[str, Tensor]  # by diffusers' names
    keys: int  # of the file that are in it
    unexpected: tuple[str, ...]  # keys of the file that belong to it by prefix, and to no layer


@dataclass(frozen=True)
class Source:
    """A file or folder: its parts ("unet", "motion", "reference", "camera", "vae", "text")."""

    path: Path
    parts: dict[str, Part]
    ignored: Counter[str]  # why -> number of keys
    unexpected: tuple[str, ...]  # keys that belong to no part


def read_source(path: str | Path, ignore: Sequence[str] = ()) -> Source:
    """What is in `path`; keys that start with one of `ignore` are left out and counted.

    Tensors are mapped, not read. Raises StylizerError for damage, for a layout that is none of
    those above, and for numbers that are not floating point.
    """
    path = Path(path)
    if path.is_dir() and not (path / CONFIG).exists():
        sorter = _Sorter(path, ignore)
        for part, tensors in read_pipeline(path).items():
            for key, tensor in tensors.items():
                sorter.take(key, tensor, part, key)
        return sorter.source(PIPELINE_RULES)
    tensors = read_network(path) if path.is_dir() else read_tensors(path)
    if any(key.startswith(tuple(PREFIXES)) for key in tensors):
        return _sort_ldm(path, tensors, ignore)
    part, rules = _recognise(tensors, path)
    if path.is_dir():
        check_facts(path, part)
    sorter = _Sorter(path, ignore)
    for key, tensor in tensors.items():
        sorter.take(key, tensor, part, key)
    return sorter.source({part: rules})


def _sort_ldm(path: Path, tensors: dict[str, Tensor], ignore: Sequence[str]) -> Source:
    for start, what in OTHERS:
        if any(key.startswith(start) for key in tensors):
            raise StylizerError(f"{path}: {what}, which has other layers; 1.5 is needed")
    prefixes = dict(PREFIXES)
    if not any(key.startswith("control_model.output_blocks.") for key in tensors):
        prefixes["control_model."] = "camera"
    sorter = _Sorter(path, ignore)
    for key, tensor in tensors.items():
        prefix = next(filter(key.startswith, prefixes), "")
        part, rest = prefixes.get(prefix, ""), key.removeprefix(prefix)
        if part == "unet" and MOTION_KEY.match(rest):
            part = "motion"
        if part == "reference" and UNREAD.match(rest):
            sorter.ignored["of a reference net's ends"] += 1
        else:
            sorter.take(key, tensor, part, rest)
    return sorter.source(LDM)


def _recognise(tensors: dict[str, Tensor], path: Path) -> tuple[str, tuple[names.Rule, ...]]:
    """What a file is whose keys have no prefix: its part, and the rules for its names."""
    if "controlnet_cond_embedding.conv_in.weight" in tensors:
        return "camera", names.DIFFUSERS
    if "input_hint_block.0.weight" in tensors:
        return "camera", names.CONTROLNET
    if any(".motion_modules." in key for key in tensors):
        original = any(".temporal_transformer." in key for key in tensors)
        return "motion", names.ANIMATEDIFF if original else names.DIFFUSERS
    raise StylizerError(f"{path}: a layout that is not known: {list_names(sorted(tensors))}")


class _Sorter:
    """Takes a source's tensors one by one, and gives them back by part, renamed."""

    def __init__(self, path: Path, ignore: Sequence[str]) -> None:
        self.path = path
        self.ignore = tuple(ignore)
        self.ignored: Counter[str] = Counter()
        self.unexpected: list[str] = []
        self.taken: dict[str, dict[str, tuple[str, Tensor]]] = {}  # part -> rest -> key, tensor

    def take(self, key: str, tensor: Tensor, part: str, rest: str) -> None:
        if self.ignore and key.startswith(self.ignore):
            self.ignored["as asked"] += 1
        elif why := next((why for old, why in IGNORED.items() if re.match(old, key)), None):
            self.ignored[why] += 1
        elif not part or rest in self.taken.get(part, {}):
            self.unexpected.append(key)
        else:
            self.taken.setdefault(part, {})[rest] = key, tensor

    def source(self, rules: dict[str, tuple[names.Rule, ...]]) -> Source:
        parts = {part: self._rename(part, rules[part]) for part in self.taken}
        return Source(self.path, parts, self.ignored, tuple(self.unexpected))

    def _rename(self, part: str, rules: Iterable[names.Rule]) -> Part:
        # the motion modules are numbered as the network is that they are in
        numbered = self.taken.get("unet", {}) if part == "motion" else self.taken[part]
        counts = names.count_blocks(numbered, f"{self.path}: {part}")
        tensors: dict[str, Tensor] = {}
        unexpected = []
        for rest, (key, tensor) in self.taken[part].items():
            renamed = names.rename(rest, rules, counts)
            if renamed is None:
                unexpected.append(key)
                continue
            name, linear = renamed
            check_tensor(tensor, f"{self.path}: {key}")
            if linear and tensor.ndim > 2:
                tensor = tensor.flatten(2).squeeze(2)
            if name in tensors and not torch.equal(tensors[name], tensor):
                raise StylizerError(f"{self.path}: {key}: differs from another key for {name}")
            tensors[name] = tensor
        keys = len(self.taken[part]) - len(unexpected)
        return Part(str(self.path), tensors, keys, tuple(unexpected))
