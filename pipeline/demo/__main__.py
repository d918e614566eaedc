"""python -m pipeline.demo: train the stylizer in the package, and write its model card."""

from pathlib import Path

import click
import torch
from accelerate import PartialState

from manifests import ManifestError
from pipeline.demo.card import write_card
from pipeline.demo.phases import train_phases
from pipeline.errors import PipelineError
from pipeline.folders import open_run
from pipeline.shards import ShardError
from stylize import DiffStyle360, StylizerError

FOLDER = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, dir_okay=False)


@click.group(help=__doc__)
def main() -> None:
    pass


@main.command()
@click.argument("manifest", type=FILE)
@click.argument("out", type=FOLDER)
@click.argument("export", type=FOLDER)
def train(manifest: Path, out: Path, export: Path) -> None:
    """Train on the columns of MANIFEST's run below OUT, or go on, and write EXPORT in half
    precision. `snakemake finetune --until render` makes those columns."""
    torch.set_flush_denormal(True)
    try:
        trained = train_phases(open_run(manifest, out))
        if PartialState().is_main_process:
            DiffStyle360.from_pretrained(trained, torch.float16).save_pretrained(export)
            click.echo(f"wrote {export}")
    except (ManifestError, PipelineError, ShardError, StylizerError) as error:
        raise click.ClickException(str(error)) from None
    finally:
        torch.set_flush_denormal(False)


@main.command()
@click.argument("manifest", type=FILE)
@click.argument("figures", type=FILE)
@click.argument("out", type=FOLDER)
@click.argument("export", type=FOLDER)
def card(manifest: Path, figures: Path, out: Path, export: Path) -> None:
    """Write README.md, curves.csv and sheet.webp into EXPORT, from MANIFEST's training and from the
    run of FIGURES with its swaps, both below OUT."""
    try:
        write_card(open_run(manifest, out), open_run(figures, out), export)
    except (ManifestError, PipelineError, ShardError, StylizerError, OSError) as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"wrote {export}")


if __name__ == "__main__":
    main()
