"""The run manifest: what one run makes.

It holds what decides the bytes of the data, never where or how fast they are made: devices,
partitions and job counts live in `profiles/` and on the command line. `manifests/runs/demo.yaml` is
the annotated example; `manifests.loading` reads the YAML.
"""

import difflib
import hashlib
import json
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field, PlainValidator

from manifests import shipped
from manifests.digests import digest_path
from manifests.rig import Explicit, Rig
from manifests.sections import Fraction, Name, Section
from manifests.stylizer import MODEL_FILES, TRAIN_SPLIT, Finetune, Stylize

MAX_LISTED_SEEDS = 1_000_000
NAMED = "procedural", shipped.DEMO


def parse_seeds(text: str) -> Sequence[int]:
    """``"0-15"`` (both ends in), ``"17"`` or ``"3,17,20-29"`` as upstream seeds, in that order.

    Raises ValueError where the text is none of these, a seed is not an unsigned 32-bit number, or
    one is given twice.
    """
    ranges = [_seed_range(part) for part in text.split(",")]
    if len(ranges) == 1:
        return ranges[0]
    if sum(map(len, ranges)) > MAX_LISTED_SEEDS:
        raise ValueError(f"{text!r} lists more than {MAX_LISTED_SEEDS} seeds; give one range")
    seeds = [seed for part in ranges for seed in part]
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"{text!r} gives a seed twice")
    return seeds


def _seed_range(text: str) -> range:
    match = re.fullmatch(r"(\d{1,10})(?:-(\d{1,10}))?", text, re.ASCII)
    if match is None:
        raise ValueError(f"{text!r} is neither a count nor seeds like '0-15' or '3,17'")
    seeds = range(int(match[1]), int(match[2] or match[1]) + 1)
    if not seeds or seeds[-1] >= 2**32:
        raise ValueError(f"seed range {text!r} is empty or leaves 0..4294967295")
    return seeds


def _check_identities(wanted: Any) -> int | str:
    if isinstance(wanted, str):
        parse_seeds(wanted)
    elif type(wanted) is not int or wanted < 1:
        raise ValueError(f"{wanted!r} is neither a count nor seeds like '0-15' or '3,17'")
    return wanted


Identities = Annotated[int | str, PlainValidator(_check_identities)]
Uint32 = Annotated[int, Field(ge=0, lt=2**32)]
DepthFormat = Literal["png16", "npy", "none"]


class Generator(Section):
    """The 3D generator whose identities are rendered."""

    source: str  # a name, a .pkl or a folder: what `eg3d_renderer.load_generator` takes
    truncation_psi: Annotated[float | None, Field(gt=0, le=1)] = None  # none: the generator's usual
    precision: Literal["exact", "fast"] = "exact"  # fast: half precision where it hardly shows


class Outputs(Section):
    """What is kept of every view, and how it is encoded."""

    resolution: Annotated[int | None, Field(ge=16, le=2048)] = None  # none: the generator's own
    neural_rendering_resolution: Annotated[int | None, Field(ge=8, le=512)] = None
    rgb: Literal["png", "webp", "jpeg"] = "png"
    depth: DepthFormat = "png16"  # distance along the ray
    z_depth: DepthFormat = "none"  # depth along the optical axis
    normals: bool = False
    mask: bool = True


class Style(Section):
    """A style-adapted generator over the same latents."""

    source: str  # as the generator's, e.g. "procedural:statue"
    instance: Uint32 | None = None  # seed of one instance for all; else each identity draws its own


class Shards(Section):
    identities: Annotated[int, Field(ge=1)] = 64  # a shard; on a CPU it changes no byte of a sample


class RunManifest(Section):
    """A whole run. Build it with `load_run`, which also reads the files it names."""

    name: Name
    seed: Annotated[int, Field(ge=0)]
    generator: Generator
    identities: Annotated[dict[Name, Identities], Field(min_length=1)]  # of every split
    rig: Rig
    outputs: Outputs = Outputs()
    styles: dict[Name, Style] = Field(default_factory=dict)
    finetune: Finetune | None = None
    stylize: Stylize | None = None
    shards: Shards = Shards()
    allow_failed: Fraction = 0.0  # of a column's samples, before the run counts as failed

    @pydantic.model_validator(mode="after")
    def _names_exist(self) -> "RunManifest":
        for name in ("finetune", "stylize"):
            if getattr(self, name) and self.rig.kind != "orbit":
                raise ValueError(
                    f"{name}: takes the views of a full circle, but rig.kind is {self.rig.kind}; "
                    "make it an orbit"
                )
            if getattr(self, name) and self.rig.count < 2:
                raise ValueError(f"{name}: needs a front and a back view, but rig.views is 1")
        if self.finetune:
            if TRAIN_SPLIT not in self.identities:
                raise ValueError(f"finetune: needs a split named {TRAIN_SPLIT!r} under identities")
            if not self.styles and self.finetune.plain < 1:
                raise ValueError("finetune: needs an entry under styles, or plain: 1.0")
            for style in self.finetune.styles:
                _must_be_one_of(style, self.styles, "finetune.styles", "styles")
            self._check_validation(self.finetune)
            for key in ("train", "cache_latents"):
                if not self.finetune.start and getattr(self.finetune, key) not in ("all", False):
                    raise ValueError(
                        f"finetune.{key}: takes a stylizer to start from; give finetune.start"
                    )
            if self.finetune.plain and self.finetune.train == "style":
                raise ValueError(
                    "finetune.plain: such clips train no part of the style, and train is style; "
                    "leave one out"
                )
            if self.finetune.cache_latents and self.finetune.resolution:
                raise ValueError(
                    "finetune.resolution: cached latents are of the stylizer's own; leave one out"
                )
            for key in ("recolour", "faint"):
                if self.finetune.cache_latents and getattr(self.finetune, key):
                    raise ValueError(
                        f"finetune.{key}: cached latents have the colours that were rendered; "
                        "leave one out"
                    )
            if self.finetune.faint and self.finetune.losses.style:
                raise ValueError(
                    "finetune.faint: such clips are not in the style image's style, as "
                    "finetune.losses.style takes them to be; leave one out"
                )
            if self.finetune.losses.view_consistency and self.outputs.depth == "none":
                raise ValueError(
                    "finetune.losses.view_consistency: takes the depth, but outputs.depth is none"
                )
            if self.finetune.views > self.rig.count:
                raise ValueError(
                    f"finetune.views: {self.finetune.views} views in a clip, "
                    f"but the rig has {self.rig.count}"
                )
            widest = self.finetune.strides[1]
            if self.finetune.views * widest > self.rig.count:
                raise ValueError(
                    f"finetune.strides: {self.finetune.views} views {widest} apart go more than "
                    f"once round the {self.rig.count} of the rig"
                )
        if self.stylize:
            _must_be_one_of(self.stylize.split, self.identities, "stylize.split", "identities")
            for name, reference in self.stylize.references.items():
                if reference.style:
                    where = f"stylize.references.{name}.style"
                    _must_be_one_of(reference.style, self.styles, where, "styles")
            if not (self.stylize.model or self.finetune):
                raise ValueError("stylize: needs a finetune section, or stylize.model: a folder")
        return self

    def _check_validation(self, finetune: Finetune) -> None:
        validation = finetune.validation
        if validation is None:
            return
        where = "finetune.validation"
        _must_be_one_of(validation.split, self.identities, f"{where}.split", "identities")
        if validation.split == TRAIN_SPLIT:
            raise ValueError(f"{where}.split: {TRAIN_SPLIT!r} is trained on; name another split")
        for style in validation.styles:
            _must_be_one_of(style, self.styles, f"{where}.styles", "styles")
            if style in finetune.styles:
                raise ValueError(f"{where}.styles: {style!r} is under finetune.styles as well")
        if not self.styles:
            raise ValueError(f"{where}: looks at styles, and the run has none")
        if not self.finetuned_styles:
            raise ValueError(f"{where}.styles: all styles are held out, none is left to train on")

    @property
    def columns(self) -> tuple[str, ...]:
        """The rendered columns: `render`, then one per style."""
        return ("render", *(f"style-{name}" for name in self.styles))

    @property
    def stylized_columns(self) -> tuple[str, ...]:
        """The columns that the stylizer writes: one per reference."""
        return tuple(f"stylized-{name}" for name in self.stylize.references) if self.stylize else ()

    @property
    def made_columns(self) -> dict[str, tuple[str, ...]]:
        """All columns in the order in which they are made, with the splits that each has."""
        columns = dict.fromkeys(self.columns, tuple(self.identities))
        columns |= dict.fromkeys(self.latent_columns, (TRAIN_SPLIT,))
        if self.stylize:
            columns |= dict.fromkeys(self.stylized_columns, (self.stylize.split,))
        return columns

    @property
    def stylized_split(self) -> str | None:
        return self.stylize.split if self.stylize else None

    @property
    def finetuned_styles(self) -> tuple[str, ...]:
        """The styles that the stylizer trains on."""
        if self.finetune is None:
            return ()
        if self.finetune.styles:
            return self.finetune.styles
        validation = self.finetune.validation
        held_out = validation.styles if validation else ()
        return tuple(style for style in self.styles if style not in held_out)

    @property
    def encoded_columns(self) -> tuple[str, ...]:
        """The rendered columns whose train split is encoded to latents."""
        if self.finetune is None or not self.finetune.cache_latents:
            return ()
        return ("render", *(f"style-{name}" for name in self.finetuned_styles))

    @property
    def latent_columns(self) -> tuple[str, ...]:
        """The columns that hold latents, of the train split."""
        return tuple(f"latents-{name}" for name in self.encoded_columns)

    def count(self, split: str) -> int:
        """How many identities a split has."""
        wanted = self.identities[split]
        return wanted if isinstance(wanted, int) else len(parse_seeds(wanted))

    def shard_names(self, split: str | None = None) -> list[str]:
        """The shards of one split, or of all: ``train-00000``, ``train-00001``, ..."""
        splits = self.identities if split is None else (split,)
        return [
            f"{s}-{number:05d}"
            for s in splits
            for number in range(-(-self.count(s) // self.shards.identities))
        ]

    def digest(self) -> str:
        """SHA-256 of all that decides what the run writes; files count by content, not by path."""
        content = self.model_dump(
            mode="json",
            exclude={"name": True, "allow_failed": True, "finetune": {"gradient_checkpointing"}},
        )
        for section in (content["generator"], *content["styles"].values()):
            if (path := Path(section["source"])).is_absolute():
                section["source"] = digest_path(path)
            elif name_of(section["source"]) == shipped.DEMO:
                weights = shipped.generator_folder() / "manifest.json"  # has the files' hashes
                section["weights"] = digest_path(weights) if weights.is_file() else None
        if isinstance(self.rig, Explicit) and self.rig.file:
            content["rig"]["file"] = digest_path(self.rig.file)
        if self.finetune and self.finetune.start:
            content["finetune"]["start"] = _digest_stylizer(self.finetune.start)
        if self.stylize and self.stylize.model:
            content["stylize"]["model"] = _digest_stylizer(self.stylize.model)
        for name, reference in self.stylize.references.items() if self.stylize else ():
            if reference.image:
                content["stylize"]["references"][name]["image"] = digest_path(reference.image)
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def folder_name(self) -> str:
        """The run's folder: its name and the head of its digest."""
        return f"{self.name}-{self.digest()[:10]}"


def name_of(source: str) -> str | None:
    """The name in a generator's source; None where it is a path."""
    name = source.partition(":")[0]
    return name if name in NAMED else None


def _digest_stylizer(folder: Path) -> list[str]:
    """Of what a stylizer is loaded from; a card or curves beside it do not count."""
    return [digest_path(folder / name) for name in MODEL_FILES]


def _must_be_one_of(name: str, known: Collection[str], key: str, section: str) -> None:
    if name not in known:
        near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"there: {', '.join(known) or 'nothing'}"
        raise ValueError(f"{key}: {name!r} is not under {section}; {hint}")
