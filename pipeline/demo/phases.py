"""Training the stylizer that ships, phase by phase.

Each starts from what the one before it made:

    base     64 px, without style: from front, back and (mostly) another head's hint to the view,
             as DiffPortrait360; what carries colours over from the references is learned here
    styles   64 px, in style, two views a clip: more style images, and more views, in the same time
    whole    the manifest's own fine-tune, at 128 px
"""

from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from manifests.stylizer import Finetune, Hints
from pipeline.folders import RunFolder
from pipeline.stages.finetune import finetune_run
from stylize import DiffStyle360

OPEN = 0.0  # the gates' bias b to begin with
SMALL = {"resolution": 64, "learning_rate": 2e-3, "inherited_rate": 1e-3}
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
    "styles": SMALL | {"steps": 4000, "batch": 12, "views": 2},
    "whole": {},
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
        if phase == "base" and processes.is_main_process:
            open_gates(start)
        processes.wait_for_everyone()  # the first one writes the stylizer
    assert start is not None
    return start


def open_gates(folder: Path) -> None:
    """Let a stylizer begin with its style in view, each of its tokens as much as any other, where
    the method begins with an eighth of that: a small one that learns all at once would first learn
    to do without."""
    model = DiffStyle360.from_pretrained(folder)
    for name, parameter in model.named_parameters():
        if name.endswith(".processor.gate.bias"):
            torch.nn.init.constant_(parameter, OPEN)
    model.save_pretrained(folder)


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
