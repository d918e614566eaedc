"""The options of several verbs: a run, or what stands in for its manifest."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from manifests import BulkManifest, shipped
from manifests.bulk import Align
from manifests.stylizer import Sampling as SamplingSection
from pipeline.errors import PipelineError
from pipeline.folders import RunFolder

if TYPE_CHECKING:
    from pipeline.stages.bulk import BulkRequest

FILE = click.Path(path_type=Path)
# Of `takes_content`: what a bulk manifest takes where it says nothing.
DEFAULTS: dict[str, Any] = {
    name: field.default
    for section in (BulkManifest, SamplingSection, Align)
    for name, field in section.model_fields.items()
    if not field.is_required() and field.default_factory is None
}


class Number(click.FloatRange):
    """A range of numbers; what is not a number is not in it."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number", param, ctx)
        return number


def takes_run(command: Callable) -> Callable:
    """The argument and option of every verb about a run."""
    options = [
        click.argument("manifest", type=FILE),
        click.option(
            "--out", default="runs", show_default=True, type=FILE, help="Folder of all runs."
        ),
    ]
    return _add(options, command)


def takes_rendering(command: Callable) -> Callable:
    """The options of `open_rendering`; each is None where it is not given."""
    depth = click.Choice(["png16", "npy", "none"])
    options = [
        click.option("--generator", help="A .pkl, a converted folder, 'procedural' or 'demo'."),
        click.option("--seeds", help="Upstream's seeds, such as 0-15 or 3,17,20-29."),
        click.option("--rig", help="orbit:32, grid:7x3, spiral:60, random:64 or FILE.json."),
        click.option("--psi", type=float, help="Truncation; else the generator's usual."),
        click.option(
            "--precision", type=click.Choice(["exact", "fast"]),
            help="fast: half precision where it hardly shows [exact].",
        ),
        click.option("--resolution", type=int, help="Of the images; else the generator's."),
        click.option(
            "--neural-resolution", "neural_rendering_resolution", type=int,
            help="Of depth and mask; else the checkpoint's.",
        ),
        click.option("--depth", type=depth, help="Distance along the ray [png16]."),
        click.option("--z-depth", type=depth, help="Depth along the optical axis [none]."),
        click.option("--normals", is_flag=True, default=None, help="Normals in camera axes."),
        click.option("--split", help="First part of the samples' keys [train]."),
        click.option("--shard-size", type=int, help="Identities in a shard [64]."),
    ]  # fmt: skip
    return _add(options, command)


def takes_content(command: Callable) -> Callable:
    """The options of `stylize_content`; each is None, or empty, where it is not given."""
    options = [
        click.option(
            "--style", "styles", multiple=True, type=FILE, help="Style image (repeatable)."
        ),
        _option(
            "--content", str,
            "Folder of images, an image, .tar (one, a folder, a glob, a URL), column of shards.",
        ),
        click.option(
            "--portraits", is_flag=True, default=None,
            help="Every image below the folder, at any depth, is a portrait: FFHQ's layout.",
        ),
        click.option(
            "--align", is_flag=True, default=None,
            help="Bring lone portraits to the model's crop by landmarks; else centred squares.",
        ),
        _option("--detector", FILE, "YuNet (.onnx), for portraits without landmarks."),
        _option("--template", FILE, "JSON of another crop's five points, in [0, 1]."),
        _option(
            "--smallest-face", Number(0, 4), "Pixels of the image for one of the crop, at least."
        ),
        _option(
            "--table", FILE,
            "CSV or Parquet: content, style, presence, temperature, name, landmarks.",
        ),
        _option("--model", FILE, "Folder of a stylizer, as a fine-tune writes it, or demo."),
        _option(
            "--hint", click.Choice(["auto", "content", "camera"]),
            "What shows structure: the content's own views, or another identity's.",
        ),
        _option("--generator", str, "Whose identities the hint `camera` shows; as of render."),
        _option("--views", click.IntRange(2, 720), "Around a portrait."),
        _option("--steps", click.IntRange(1, 500), "Of sampling."),
        _option("--sampler", click.Choice(["ddim", "dpm++", "unipc"]), "How to sample."),
        _option("--eta", Number(0, 1), "Of ddim: the share of fresh noise in each step."),
        _option(
            "--start", click.Choice(["noise", "hint"]), "Of sampling: noise, or the hint, noised."
        ),
        _option("--presence", Number(0, 1), "Of the style; 0: none."),
        _option("--temperature", Number(0, 100, min_open=True), "Below 1: sharper style."),
        _option("--content-guidance", Number(min=0), "Weight of the content."),
        _option("--style-guidance", Number(min=0), "Weight of the style."),
        _option("--precision", click.Choice(["exact", "fast"]), "Of the stylizer; fast: bfloat16."),
        _option("--seed", click.IntRange(min=0), "Of noise and hints."),
        _option("--rgb", click.Choice(["png", "webp", "jpeg"]), "Encoding of the views."),
        _option("--shard-size", click.IntRange(min=1), "Samples in a shard."),
        _option("--allow-failed", Number(0, 1), "Share of samples that may fail for exit code 0."),
    ]  # fmt: skip
    return _add(options, command)


def is_given(request: dict[str, Any]) -> bool:
    """Whether any of the options that stand in for a manifest was given."""
    return any(value is not None and value != () for value in request.values())


def open_rendering(given: dict[str, Any], out: Path | None) -> RunFolder:
    """The planned run that the options of `takes_rendering` ask for, in the folder `out`.

    Raises click.UsageError where one that is needed is missing, and as `open_request`.
    """
    from eg3d_renderer.cameras import parse_rig
    from pipeline.requests import open_request
    from pipeline.stages.plan import plan_run

    for option in ("generator", "seeds", "rig"):
        if given[option] is None:
            raise click.UsageError(f"Missing argument 'MANIFEST', or option '--{option}'.")
    if out is None:
        raise click.UsageError("Missing option '--out'.")
    outputs = "resolution", "neural_rendering_resolution", "depth", "z_depth", "normals"
    content = {
        "generator": {
            "source": given["generator"],
            "truncation_psi": given["psi"],
            "precision": given["precision"],
        },
        "identities": {given["split"] or "train": given["seeds"]},
        "rig": parse_rig(given["rig"]),
        "outputs": {name: given[name] for name in outputs},
        "shards": {"identities": given["shard_size"]},
    }
    folder = open_request(content, out)
    plan_run(folder)
    return folder


def stylize_content(
    given: dict[str, Any], out: Path | None, shards: Sequence[str], device: str, compiled: bool
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
    bulk = open_bulk(request, out, open_device(device, STYLIZE_THREADS), compiled)
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
    from pipeline.inputs.jobs import Asked, name_styles
    from pipeline.stages.bulk import BulkRequest
    from stylize import Sampling

    if given["content"] is None and given["table"] is None:
        raise click.UsageError("Missing argument 'MANIFEST', or option '--content' or '--table'.")
    if bool(given["styles"]) == (given["table"] is not None):
        raise click.UsageError("give style images (--style), or a table that names them (--table)")
    if given["portraits"] and given["content"] is None:
        raise click.UsageError("--portraits goes with --content")
    keys = tuple(Align.model_fields)
    if not given["align"] and (loose := [key for key in keys if given[key] is not None]):
        raise click.UsageError(f"--{loose[0].replace('_', '-')} goes with --align")
    filled = {k: DEFAULTS.get(k) if v is None else v for k, v in given.items()}
    if filled["model"] == Path(shipped.DEMO):
        filled["model"] = shipped.stylizer_folder()

    def take(*names: str) -> dict[str, Any]:
        return {name: filled[name] for name in names}

    other = "eta", "start", "content_guidance", "style_guidance"
    return BulkRequest(
        asked=Asked(**take("hint", "views", "presence", "temperature", "shard_size")),
        sampling=Sampling(**take("steps", "sampler", "presence", "temperature", *other)),
        portraits=bool(given["portraits"]),
        align=Align(**take(*keys)) if given["align"] else None,
        styles=name_styles(given["styles"]),
        **take("content", "table", "model", "generator", "precision", "seed", "rgb"),
    )


def _option(name: str, kind: Any, told: str) -> Callable:
    """An option of `takes_content`, which tells its default."""
    default = DEFAULTS.get(name.removeprefix("--").replace("-", "_"))
    shown = "" if default is None else f"  [{default}]"
    return click.option(name, type=kind, help=told + shown)


def _add(options: Sequence[Callable], command: Callable) -> Callable:
    for option in reversed(options):
        command = option(command)
    return command
