"""Training the stylizer that ships, phase by phase.

Each starts from what the one before it made:

    base     64 px, without style: from front, back and (mostly) another head's hint to the view,
             as DiffPortrait360; what carries colours over from the references is learned here
    styles   64 px, in style, two views a clip: more style images, and more views, in the same time;
             starts with open gates, for attention to find what to read
    dial     the same from softened attention, for presence to have an even effect
    whole    the same at 128 px, four views a clip
    face     the manifest's own fine-tune: more views of faces, and a weight on detail, for make-up
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from manifests.stylizer import TRAIN_SPLIT, Finetune, Hints, Losses
from pipeline.demo.softening import soften
from pipeline.folders import RunFolder
from pipeline.stages.clips import Clips
from pipeline.stages.finetune import finetune_run
from stylize import DiffStyle360

OPEN = 0.0  # the gates' bias b to begin with
LOOKED_AT = 12  # clips, to soften attention by
EVEN = {  # before faces are looked at more than all else
    "frontal": 0.0,
    "losses": Losses(),
    "recolour": 0.2,
    "learning_rate": 2e-3,
}
SMALL = EVEN | {"resolution": 64, "inherited_rate": 1e-3}
STYLED = SMALL | {"batch": 12, "views": 2}
PHASES: dict[str, dict[str, Any]] = {  # what a phase changes of the manifest's fine-tune
    "base": SMALL
    | {
        "steps": 400,
        "batch": 6,
        "hints": Hints(content=0.15, camera=0.85),
        "plain": 1.0,
        "recolour": 0.0,
        "faint": 0.0,
        "validation": None,
    },
    "styles": STYLED | {"steps": 500},
    "dial": STYLED
    | {"steps": 2400, "learning_rate": 2.5e-3, "inherited_rate": 7e-4, "validation": None},
    "whole": EVEN | {"steps": 2400, "inherited_rate": 6e-4},
    "face": {},
}


def train_phases(folder: RunFolder) -> Path:
    """Train what is not trained yet and return the folder of the last phase's stylizer.

    `folder` is a run whose columns are there; each phase has a folder of its own in it. All
    processes of accelerate's launcher take part.
    """
    processes, start = PartialState(cpu=not torch.cuda.is_available()), None
    for phase in PHASES:
        with processes.main_process_first():
            made = open_phase(folder, phase, start)
        start = made.path / "stylizer"
        if not start.exists():
            finetune_run(made)
        if phase in HANDED_ON:
            start = made.path / "handed-on"
            if processes.is_main_process and not start.exists():
                hand_on(made, HANDED_ON[phase], start)
        processes.wait_for_everyone()  # the first one writes the stylizer
    assert start is not None
    return start


def hand_on(made: RunFolder, change: Callable[[DiffStyle360, RunFolder], None], out: Path) -> None:
    """Write the stylizer of a phase, changed, to `out`, for the next one to start from."""
    model = DiffStyle360.from_pretrained(made.path / "stylizer")
    change(model, made)
    model.save_pretrained(out)


def open_gates(model: DiffStyle360, _: RunFolder) -> None:
    """Let a stylizer begin with its style in view, each of its tokens as much as any other, where
    the method begins with an eighth of that: a small one that learns all at once would first learn
    to do without."""
    for name, parameter in model.named_parameters():
        if name.endswith(".processor.gate.bias"):
            torch.nn.init.constant_(parameter, OPEN)


def soften_attention(model: DiffStyle360, made: RunFolder) -> None:
    """Soften attention by what it does on clips of the phase that it was trained in."""
    own, wanted = model.config, made.run.finetune
    assert wanted is not None
    size = wanted.resolution or own.image_size
    clips = Clips(made, TRAIN_SPLIT, made.run.finetuned_styles, size)
    model.config = dataclasses.replace(own, image_size=size)
    soften(model, [clips.batch([number]) for number in range(LOOKED_AT)])
    model.config = own


HANDED_ON = {"base": open_gates, "styles": soften_attention}  # how, before the next phase


def open_phase(folder: RunFolder, phase: str, start: Path | None) -> RunFolder:
    """The run of one phase, in a folder with links to the columns."""
    run = folder.run.model_copy(update={"finetune": settings(folder, phase, start)})
    made = RunFolder(run, folder.path / phase)
    made.path.mkdir(exist_ok=True)
    for column in run.columns:
        link = made.column(column)
        if not link.is_symlink():
            link.symlink_to(folder.column(column).resolve())
    return made


def settings(folder: RunFolder, phase: str, start: Path | None = None) -> Finetune:
    assert folder.run.finetune is not None
    return folder.run.finetune.model_copy(update=PHASES[phase] | {"start": start})
