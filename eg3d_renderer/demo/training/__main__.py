"""python -m eg3d_renderer.demo.training FOLDER: train, or go on, and write a folder a style."""

import sys
from pathlib import Path

import click
import torch

from eg3d_renderer.checkpoints import save_checkpoint
from eg3d_renderer.demo.styles import STYLES
from eg3d_renderer.demo.training.card import write_card
from eg3d_renderer.demo.training.loop import Settings, train
from eg3d_renderer.demo.weights import NATURAL, save_styles
from eg3d_renderer.errors import RendererError

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@click.command(help=__doc__)
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--steps", type=click.IntRange(min=1), default=Settings.steps, show_default=True)
@click.option(
    "--style",
    "styles",
    type=click.Choice(list(STYLES)),
    multiple=True,
    help="One of those to learn; may be given more than once. [default: all]",
)
@click.option(
    "--workers",
    type=click.IntRange(min=0),
    default=2,
    show_default=True,
    help="Processes that render what is learned from, in the time that learning leaves.",
)
@click.option(
    "--precision",
    type=click.Choice(list(PRECISIONS)),
    default="float32",
    show_default=True,
    help="Of planes: bfloat16 is for processors with AMX; on others it is slower.",
)
@click.option(
    "--export",
    type=click.Path(path_type=Path, file_okay=False),
    help="One folder of all styles with a model card, as the package ships them, instead of a "
    "folder a style.",
)
def main(
    folder: Path,
    steps: int,
    styles: tuple[str, ...],
    workers: int,
    precision: str,
    export: Path | None,
) -> None:
    torch.set_flush_denormal(True)  # faint light behind surfaces would take half the time
    names = tuple(style for style in STYLES if style in (styles or STYLES))
    wanted = [] if export else [folder / style for style in names]
    try:
        if export and NATURAL not in names:
            raise RendererError(f"--export needs the style {NATURAL!r}")
        for there in wanted:
            if there.exists():
                raise RendererError(f"{there}: exists; name another folder, or remove it")
        settings = Settings(names, steps)
        model = train(settings, folder, workers, PRECISIONS[precision], log=click.echo)
        for style, there in enumerate(wanted):
            save_checkpoint(model.checkpoint(style), there)
            click.echo(f"wrote {there}")
        if export:
            save_styles({style: model.checkpoint(n) for n, style in enumerate(names)}, export)
            write_card(export, folder, settings)
            click.echo(f"wrote {export}")
    except (RendererError, FloatingPointError, OSError) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
    finally:
        torch.set_flush_denormal(False)


if __name__ == "__main__":
    main()
