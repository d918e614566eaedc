"""A stylizer put together from what users have: Stable Diffusion, AnimateDiff, a ControlNet, or
DiffPortrait360's two checkpoints, which hold all of it."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from stylize.config import StylizerConfig, StylizerError
from stylize.model import DiffStyle360
from stylize.storage import check_state, list_names
from stylize.weights.prompt import empty_prompt
from stylize.weights.report import ImportReport, PartReport, SourceReport
from stylize.weights.sizes import derive_config
from stylize.weights.sources import Part, Source, read_source
from stylize.weights.starts import Starts
from stylize.weights.writing import write_stylizer

# option -> the parts that it must bring, and those that are taken where no other brings them
BRINGS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "multiview": (("unet", "motion", "reference", "camera"), ("vae", "text")),
    "motion": (("motion",), ()),
    "camera": (("camera",), ()),
    "base": (("unet", "vae", "text"), ()),
    "back_view": (("unet", "reference", "camera"), ()),
}
# part of the stylizer, what a source calls it
FRONT = {
    "denoiser": "unet",
    "motion": "motion",
    "reference_net": "reference",
    "camera_net": "camera",
    "vae": "vae",
    "prompt": "text",
}
BACK = {"back_denoiser": "unet", "back_reference_net": "reference", "back_camera_net": "camera"}
STYLE = "style"
WHAT = {"denoiser": "UNet", "vae": "autoencoder", "prompt": "text encoder"}
PARTS = ("denoiser", "motion", STYLE, *[*FRONT][2:], *BACK)  # as reported
PREFIXES = {"motion": "denoiser."}  # of a part's tensors, where it is not the part's name


@dataclass(frozen=True)
class Imported:
    """A stylizer's config and state, as `DiffStyle360.own_state` names it.

    The tensors are mapped from the sources, in the sources' types: write them before those change.
    """

    config: StylizerConfig
    state: dict[str, Tensor]
    report: ImportReport

    def write(self, folder: str | Path, dtype: torch.dtype = torch.bfloat16) -> None:
        """Write the folder that `DiffStyle360.from_pretrained` loads, with all weights as `dtype`.

        Raises StylizerError for a folder that has something in it, on weights that are not finite
        in that type, and where writing fails.
        """
        folder = Path(folder)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise StylizerError(f"{folder}: exists; name another folder, or remove it")
        sources = {part.part: part.source for part in self.report.parts}
        write_stylizer(folder, self.config, self.state, dtype, lambda name: sources[part_of(name)])


def import_weights(
    *,
    base: str | Path | None = None,
    motion: str | Path | None = None,
    camera: str | Path | None = None,
    multiview: str | Path | None = None,
    back_view: str | Path | None = None,
    window: int = 16,
    image_size: int = 512,
    lora_rank: int = 64,
    ignore: Sequence[str] = (),
) -> Imported:
    """A stylizer from files or folders (layouts: `read_source`).

    base: Stable Diffusion 1.5. motion: AnimateDiff v1. camera: a ControlNet. multiview, back_view:
    DiffPortrait360's checkpoints; the first replaces motion and camera, and base as far as it goes.
    What none brings begins as `Starts` says. window: views that the motion modules see at once.
    lora_rank: of the style encoder's updates; 0: weights of its own. Keys that start with one of
    `ignore` are left out. Raises StylizerError for anything that does not fit to the last key.
    """
    paths = {
        "multiview": multiview, "motion": motion, "camera": camera, "base": base,
        "back_view": back_view,
    }  # fmt: skip
    for option in ("motion", "camera"):
        if multiview is not None and paths[option] is not None:
            raise StylizerError(
                f"{option}: the multi-view checkpoint brings its own; leave one out"
            )
    sources = {
        option: _open(option, path, ignore) for option, path in paths.items() if path is not None
    }
    taken = _choose(sources)
    text = taken.pop("prompt")
    prompt = empty_prompt(text.tensors, f"{text.source}: text encoder")
    config = derive_config(
        taken["denoiser"],
        taken.get("motion"),
        taken.get("camera_net"),
        taken["vae"],
        prompt,
        image_size=image_size,
        window=window,
        lora_rank=lora_rank,
        back_view=back_view is not None,
    )
    shapes = DiffStyle360.empty(config).own_state()
    state: dict[str, Tensor] = {"prompt": prompt}
    reports = [PartReport("prompt", text.source, text.keys, 1)]
    reports += [_fill(state, shapes, name, part) for name, part in taken.items()]
    starts = Starts(shapes, state)
    for part, start in (
        ("motion", starts.motion),
        ("reference_net", starts.reference),
        ("camera_net", starts.camera),
        (STYLE, starts.style),
    ):
        if part not in taken:
            reports.append(_start(state, shapes, part, start))
    reports.sort(key=lambda report: PARTS.index(report.part))
    left_out = _left_out(sources, [text, *taken.values()])
    # what others begin as comes first: should it be damaged, the error names its file
    ordered = sorted(state.items(), key=lambda item: PARTS.index(part_of(item[0])))
    return Imported(config, dict(ordered), ImportReport(tuple(reports), left_out))


def part_of(name: str) -> str:
    """Which part of the report a tensor of the stylizer belongs to."""
    if ".motion_modules." in name:
        return "motion"
    if ".attn1.processor." in name or name.startswith("style_encoder."):
        return STYLE
    return name.split(".")[0]


def _open(option: str, path: str | Path, ignore: Sequence[str]) -> Source:
    """The source, which must hold what the option says, and nothing unknown."""
    source = read_source(path, ignore)
    needed, welcome = BRINGS[option]
    lacking = [part for part in needed if part not in source.parts]
    if lacking:
        raise StylizerError(
            f"{path}: no {', no '.join(lacking)} in it, only {', '.join(source.parts) or 'nothing'}"
        )
    if option == "back_view" and "motion" in source.parts:
        raise StylizerError(f"{path}: motion modules in it: a multi-view checkpoint, not a back's")
    used = (part for name, part in source.parts.items() if name in (*needed, *welcome))
    unknown = [*source.unexpected, *(key for part in used for key in part.unexpected)]
    if unknown:
        raise StylizerError(
            f"{path}: unexpected: {list_names(unknown)}; where they may be left out, ignore them"
        )
    return source


def _choose(sources: dict[str, Source]) -> dict[str, Part]:
    """For each part of the stylizer that is brought: the first source's in the order of BRINGS."""
    taken: dict[str, Part] = {}
    for option in (option for option in BRINGS if option in sources):
        source = sources[option]
        needed, welcome = BRINGS[option]
        for part, name in (BACK if option == "back_view" else FRONT).items():
            if part not in taken and name in source.parts and name in (*needed, *welcome):
                taken[part] = source.parts[name]
    for part in WHAT:
        if part not in taken:
            raise StylizerError(
                f"nothing given has the {WHAT[part]}: name Stable Diffusion 1.5 as the base"
            )
    return taken


def _fill(state: dict[str, Tensor], shapes: dict[str, Tensor], name: str, part: Part) -> PartReport:
    """Put a part into the state, where it must fit exactly."""
    prefix = PREFIXES.get(name, f"{name}.")
    ours = (full for full in shapes if part_of(full) == name)
    expected = {full.removeprefix(prefix): shapes[full] for full in ours}
    check_state(part.tensors, expected, f"{part.source}: {name}")
    state.update({prefix + key: tensor for key, tensor in part.tensors.items()})
    return PartReport(name, part.source, part.keys, len(part.tensors))


def _start(
    state: dict[str, Tensor],
    shapes: dict[str, Tensor],
    name: str,
    start: Callable[[str], tuple[Tensor, str]],
) -> PartReport:
    begun: Counter[str] = Counter()
    for full in (full for full in shapes if part_of(full) == name):
        state[full], what = start(full)
        begun[what] += 1
    return PartReport(name, started=begun)


def _left_out(sources: dict[str, Source], used: Iterable[Part]) -> tuple[SourceReport, ...]:
    return tuple(
        SourceReport(
            str(source.path),
            source.ignored,
            {
                name: part.keys + len(part.unexpected)
                for name, part in source.parts.items()
                if not any(part is other for other in used)
            },
        )
        for source in sources.values()
    )
