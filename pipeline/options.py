"""Stylizing without a manifest: the options that stand in for one, and the run that they make."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.errors import PipelineError

if TYPE_CHECKING:
    from pipeline.stages.bulk import BulkRequest

FILE = click.Path(path_type=Path)
DEFAULTS: dict[str, Any] = {
    "hint": "auto",
    "generator": "procedural",
    "views": 32,
    "steps": 50,
    "sampler": "ddim",
    "presence": 1.0,
    "temperature": 1.0,
    "content_guidance": 1.0,
    "style_guidance": 1.0,
    "precision": "exact",
    "seed": 0,
    "rgb": "png",
    "shard_size": 64,
    "allow_failed": 0.0,
}


class Number(click.FloatRange):
    """A range of numbers; what is not a number is not in it."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number", param, ctx)
        return number


def takes_content(command: Callable) -> Callable:
    """The options; each is None, or empty, where it is not given."""
    for name, kind, told in reversed(
        [
            ("--content", str, "Folder of images, .tar, folder or glob of them, or a column."),
            ("--table", FILE, "CSV or Parquet: content, style, presence, temperature, name."),
            ("--model", FILE, "Folder of a stylizer, as a fine-tune writes it."),
            (
                "--hint",
                click.Choice(["auto", "content", "camera"]),
                "What shows structure: the content's own views, or another identity's.",
            ),
            ("--generator", str, "Whose identities the hint `camera` shows; as of render."),
            ("--views", click.IntRange(2, 720), "Around a portrait."),
            ("--steps", click.IntRange(1, 1000), "Of sampling."),
            ("--sampler", click.Choice(["ddim", "dpm++", "unipc"]), "How to sample."),
            ("--presence", Number(0, 1), "Of the style; 0: none."),
            ("--temperature", Number(0, 100, min_open=True), "Below 1: sharper style."),
            ("--content-guidance", Number(min=0), "Weight of the content."),
            ("--style-guidance", Number(min=0), "Weight of the style."),
            (
                "--precision",
                click.Choice(["exact", "fast"]),
                "Of the stylizer; fast: bfloat16.",
            ),
            ("--seed", click.IntRange(min=0), "Of noise and hints."),
            ("--rgb", click.Choice(["png", "webp", "jpeg"]), "Encoding of the views."),
            ("--shard-size", click.IntRange(min=1), "Samples in a shard."),
            ("--allow-failed", Number(0, 1), "Share of samples that may fail for exit code 0."),
        ]
    ):
        default = DEFAULTS.get(name.removeprefix("--").replace("-", "_"))
        shown = "" if default is None else f"  [{default}]"
        command = click.option(name, type=kind, help=told + shown)(command)
    portraits = click.option(
        "--portraits", is_flag=True, default=None,
        help="Every image below the folder, at any depth, is a portrait (FFHQ's folders of 1000).",
    )  # fmt: skip
    style = click.option(
        "--style", "styles", multiple=True, type=FILE, help="Style image (repeatable)."
    )
    return portraits(style(command))


def is_given(request: dict[str, Any]) -> bool:
    """Whether any of the options of `takes_content` was given."""
    return any(value is not None and value != () for value in request.values())


def stylize_content(
    given: dict[str, Any], out: Path | None, shards: Sequence[str], device: str
) -> list[Path]:
    """Make the columns that the options ask for, or some shards of them; the columns' folders.

    Shards that are there are left as they are. Raises click.UsageError where the options do not go
    together, PipelineError where they cannot be met.
    """
    from pipeline.devices import STYLIZE_THREADS, open_device
    from pipeline.shards.writer import is_committed
    from pipeline.stages.bulk import open_bulk, stylize_bulk_shard

    request = _build_request(given)
    if out is None:
        raise click.UsageError("Missing option '--out'.")
    bulk = open_bulk(request, out, open_device(device, STYLIZE_THREADS))
    known = sorted({shard for names in bulk.columns.values() for shard in names})
    if unknown := [shard for shard in shards if shard not in known]:
        raise PipelineError(f"no shard {unknown[0]!r} in this request; {known[0]} to {known[-1]}")
    for column, names in bulk.columns.items():
        for shard in names:
            if (not shards or shard in shards) and not is_committed(out / column, shard):
                stylize_bulk_shard(bulk, column, shard)
    return [out / column for column in bulk.columns]


def _build_request(given: dict[str, Any]) -> "BulkRequest":
    """What these options ask for. Raises click.UsageError where they do not go together."""
    from pipeline.inputs.jobs import Asked
    from pipeline.stages.bulk import BulkRequest
    from stylize import Sampling

    if given["content"] is None and given["table"] is None:
        raise click.UsageError("Missing argument 'MANIFEST', or option '--content' or '--table'.")
    if bool(given["styles"]) == (given["table"] is not None):
        raise click.UsageError("give style images (--style), or a table that names them (--table)")
    if given["portraits"] and given["content"] is None:
        raise click.UsageError("--portraits goes with --content")
    if given["model"] is None:
        raise click.UsageError("Missing option '--model'.")
    filled = {k: DEFAULTS.get(k) if v is None else v for k, v in given.items()}

    def take(*names: str) -> dict[str, Any]:
        return {name: filled[name] for name in names}

    guidance = "content_guidance", "style_guidance"
    return BulkRequest(
        asked=Asked(**take("hint", "views", "presence", "temperature", "shard_size")),
        sampling=Sampling(**take("steps", "sampler", "presence", "temperature", *guidance)),
        portraits=bool(given["portraits"]),
        **take("content", "styles", "table", "model", "generator", "precision", "seed", "rgb"),
    )
