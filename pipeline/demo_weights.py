"""python -m pipeline.demo_weights MANIFEST OUT: train the stylizer that ships, phase by phase.

The columns are those of the manifest's run below OUT, made by Snakemake; `make demo-weights` does
both. Each phase starts from what the one before it made, and goes on where it was stopped:

    base     64 px, without style: from front, back and hint to the view, as DiffPortrait360
    styles   64 px, in style: four times as many views in the same time
    whole    the manifest's own fine-tune, at 128 px
"""

from pathlib import Path
from typing import Any

import click
import torch

from manifests import ManifestError
from manifests.stylizer import Hints
from pipeline.errors import PipelineError
from pipeline.folders import RunFolder, open_run
from pipeline.stages.finetune import finetune_run
from stylize import StylizerError

SMALL = {"resolution": 64, "learning_rate": 1e-3, "inherited_rate": 1e-3}
PHASES: dict[str, dict[str, Any]] = {
    "base": SMALL
    | {
        "steps": 1200,
        "batch": 6,
        "plain": 1.0,
        "recolour": 0.0,
        "hints": Hints(content=0.2, camera=0.8),
        "validation": None,
    },
    "styles": SMALL | {"steps": 3600, "batch": 6},
    "whole": {},
}


@click.command(help=__doc__)
@click.argument("manifest", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
def main(manifest: Path, out: Path) -> None:
    torch.set_flush_denormal(True)  # activations near zero would take twice the time
    try:
        folder, start = open_run(manifest, out), None
        for phase in PHASES:
            start = train_phase(folder, phase, start)
            click.echo(f"wrote {start}")
    except (ManifestError, PipelineError, StylizerError) as error:
        raise click.ClickException(str(error)) from None
    finally:
        torch.set_flush_denormal(False)


def train_phase(folder: RunFolder, phase: str, start: Path | None) -> Path:
    """Train one phase in a folder of its own in the run's, and return where its stylizer lies."""
    assert folder.run.finetune is not None
    wanted = folder.run.finetune.model_copy(update=PHASES[phase] | {"start": start})
    run = folder.run.model_copy(update={"finetune": wanted})
    made = RunFolder(run, folder.path / phase)
    made.path.mkdir(exist_ok=True)
    for column in run.columns:
        link = made.column(column)
        if not link.is_symlink():
            link.symlink_to(folder.column(column).resolve())
    if not (made.path / "stylizer").exists():
        finetune_run(made)
    return made.path / "stylizer"


if __name__ == "__main__":
    main()
