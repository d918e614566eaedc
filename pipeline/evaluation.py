"""The verb that measures: a run, or columns that were stylized without one."""

from pathlib import Path
from typing import Any

import click

from pipeline.tools import device_option

PATH = click.Path(path_type=Path)


@click.command()
@click.argument("manifest", required=False, type=PATH)
@click.option(
    "--out", type=PATH,
    help="Folder of all runs [runs]; with --protocol, of metrics.parquet [beside the columns].",
)  # fmt: skip
@click.option("--clip", type=PATH, help="CLIP-I: a CLIP folder as transformers saves it.")
@click.option("--csd", type=PATH, help="CSD: its published checkpoint, ViT-L.")
@click.option(
    "--lpips", type=PATH, nargs=2, metavar="VGG16 HEADS",
    help="LPIPS: torchvision's vgg16, and the authors' linear layers.",
)  # fmt: skip
@click.option("--arcface", type=PATH, help="Identity and its leakage: an ArcFace network, ONNX.")
@click.option(
    "--face", type=click.FloatRange(0, 1), nargs=3, metavar="LEFT TOP SIDE",
    help="The square around the face, of the image, that ArcFace sees; default: all of it.",
)  # fmt: skip
@click.option("--inception", type=PATH, help="FID, KID, ArtFID: an Inception network, ONNX.")
@click.option(
    "--protocol", type=click.Choice(["ffhq", "renderme360"]),
    help="Without a manifest: portraits, or identities seen from around.",
)  # fmt: skip
@click.option("--content", help="With --protocol: what was stylized, as of stylize.")
@click.option(
    "--stylized", multiple=True, type=PATH, help="With --protocol: a column of it (repeatable)."
)
@click.option(
    "--style", "styles", multiple=True, type=PATH,
    help="With --protocol: a style image [as it was named when stylizing] (repeatable).",
)  # fmt: skip
@click.option("--masks", help="With --protocol: masks, laid out and named as the content.")
@device_option
def evaluate(
    manifest: Path | None,
    out: Path | None,
    protocol: str | None,
    content: str | None,
    stylized: tuple[Path, ...],
    styles: tuple[Path, ...],
    masks: str | None,
    device: str,
    **weights: Any,
) -> None:
    """Measure stylized columns, with baselines beside them: those of MANIFEST, or

    \b
        diffstyle360 evaluate --protocol ffhq --content portraits --stylized inked/stylized-ink

    what `stylize --content` wrote. Networks whose weights you give add the measures that take them;
    --device is theirs.
    """
    _check_usage(manifest, protocol, content, stylized, styles, masks)
    if (face := weights["face"]) and (not face[2] or max(face[:2]) + face[2] > 1):
        raise click.UsageError("--face: the square must lie in the image")
    if weights["face"] and not weights["arcface"]:
        raise click.UsageError("--face goes with --arcface")
    from pipeline.devices import EVALUATE_THREADS, open_device
    from pipeline.folders import open_run
    from pipeline.judges import open_judges

    folder = open_run(manifest, out or Path("runs")) if manifest else None
    where = open_device(device, EVALUATE_THREADS)
    judges = open_judges(where, **{name: value for name, value in weights.items() if value})
    if folder is not None:
        from pipeline.stages.evaluate import evaluate_run

        print(f"{folder.metrics_path}: {evaluate_run(folder, judges)} rows")
        return
    from pipeline.stages.averages import as_text
    from pipeline.stages.protocols import Folders, evaluate_folders

    assert protocol is not None
    assert content is not None
    path = (out or stylized[0].parent) / "metrics.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    folders = Folders(protocol, content, stylized, styles, masks)
    print(as_text(evaluate_folders(folders, path, judges)))
    print(path)


@click.command()
@click.argument("manifest", type=PATH)
@click.option("--out", type=PATH, default="runs", show_default=True, help="Folder of all runs.")
@click.option("--cases", type=click.IntRange(1), default=24, show_default=True, help="How many.")
@click.option(
    "--views", type=click.IntRange(2), default=4, show_default=True,
    help="Of each identity, evenly around.",
)  # fmt: skip
@device_option
def swaps(manifest: Path, out: Path, cases: int, views: int, device: str) -> None:
    """Exchange style image, style instance, content and the style image's person, one at a time,
    and measure what the outputs of MANIFEST's stylizer follow. Writes swaps.json."""
    from pipeline.devices import STYLIZE_THREADS, open_device
    from pipeline.folders import open_run
    from pipeline.stages.stylize import open_stylizer
    from pipeline.stages.swaps import measure_swaps, summarize

    folder = open_run(manifest, out)
    precision = folder.run.stylize.precision if folder.run.stylize else "exact"
    stylizer = open_stylizer(folder.stylizer, open_device(device, STYLIZE_THREADS), precision)
    for name, value in summarize(measure_swaps(folder, stylizer, cases, views)).items():
        print(f"{name:17} {value:.3f}")
    print(folder.swaps_path)


def _check_usage(
    manifest: Path | None,
    protocol: str | None,
    content: str | None,
    stylized: tuple[Path, ...],
    styles: tuple[Path, ...],
    masks: str | None,
) -> None:
    if protocol is None:
        if content or stylized or styles or masks:
            raise click.UsageError("--content, --stylized, --style and --masks go with --protocol")
        if manifest is None:
            raise click.UsageError("Missing argument 'MANIFEST', or option '--protocol'.")
    elif manifest is not None:
        raise click.UsageError("give a manifest, or --protocol and its options, not both")
    elif content is None or not stylized:
        raise click.UsageError("--protocol takes --content and --stylized")
