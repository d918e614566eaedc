"""The command line: one verb a stage, each also usable alone."""

import itertools
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from pipeline.bench import bench
from pipeline.errors import PipelineError
from pipeline.evaluation import evaluate, swaps
from pipeline.folders import BulkFolder, RunFolder, open_folder, open_run
from pipeline.library import merge, publish, reshard, stats
from pipeline.options import (
    is_given,
    open_rendering,
    stylize_content,
    takes_content,
    takes_rendering,
    takes_run,
)
from pipeline.scale import simulate
from pipeline.tools import convert, device_option, doctor, export, mesh, sheet
from pipeline.watch import retry_failed, status
from pipeline.weights import convert_stylizer

SHOWN = 3  # shards in an error
OUR_PACKAGES = ("manifests", "eg3d_renderer", "stylize", "pipeline")


def main() -> None:
    """Run a verb. An error of ours is one line on stderr and exit code 2; a bug keeps its trace."""
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")  # its warnings are not the user's to mend
    try:
        cli.main(standalone_mode=False)
    except click.ClickException as error:
        _fail(error.format_message())
    except click.exceptions.Abort:
        sys.exit(130)
    except OSError as error:
        _fail(f"{error.filename or 'input or output'}: {error.strerror or error}")
    except Exception as error:
        if type(error).__module__.split(".")[0] not in OUR_PACKAGES:
            raise
        _fail(str(error))


def _fail(message: str) -> None:
    print(f"diffstyle360: error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="diffstyle360")
def cli() -> None:
    """Multi-view heads from 3D GANs as training shards, and their 360° stylization.

    Every stage takes a run manifest (see manifests/runs/demo.yaml) and writes into RUNS/NAME-HASH,
    where the hash is that of all that decides the data. Finished shards are left as they are. Bulk
    manifests (manifests/runs/stylize-folder.yaml) have plan, stylize, verify, report, status and
    retry-failed.
    """


for command in (
    bench, convert, convert_stylizer, doctor, evaluate, export, merge, mesh, publish, reshard,
    retry_failed, sheet, simulate, stats, status, swaps,
):  # fmt: skip
    cli.add_command(command)


shard_option = click.option(
    "--shard", "shards", multiple=True, help="Only this shard, e.g. train-00003 (repeatable)."
)


@cli.command()
@takes_run
@click.option("--no-space-check", is_flag=True, help="Do not compare what it takes with the disk.")
def plan(manifest: Path, out: Path, no_space_check: bool) -> None:
    """Say which identities the run has, with their seeds, splits and shards.

    Of a bulk manifest: list the content, and say which sample each shard holds. That is done once;
    where the content has changed after shards were begun, this says so.

    Warns where what is still to be written may not fit on the disk, and refuses where it will not,
    as shards that are there show.
    """
    folder = open_folder(manifest, out)
    if isinstance(folder, BulkFolder):
        from pipeline.stages.bulk_run import plan_bulk
        from pipeline.stages.bulk_space import check_bulk_space, tell_space

        samples = plan_bulk(folder)
        if not no_space_check and (warning := check_bulk_space(folder)):
            print(f"diffstyle360: {warning}", file=sys.stderr)
        shards = sum(map(len, folder.shards.values()))
        print(f"{folder.plan_path}: {samples} samples, {shards} shards; {tell_space(folder)}")
        return
    from pipeline.space import check_space
    from pipeline.stages.plan import plan_run

    if not no_space_check and (warning := check_space(folder)):
        print(f"diffstyle360: {warning}", file=sys.stderr)
    print(
        f"{folder.plan_path}: {plan_run(folder)} identities, {len(folder.run.shard_names())} shards"
    )


@cli.command()
@click.argument("manifest", required=False, type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path),
    help="Folder of all runs [runs]; with --generator, of this rendering alone.",
)  # fmt: skip
@click.option(
    "--column", "columns", multiple=True, help="Only 'render' or 'style-NAME' (repeatable)."
)
@shard_option
@device_option
@takes_rendering
def render(
    manifest: Path | None,
    out: Path | None,
    columns: tuple[str, ...],
    shards: tuple[str, ...],
    device: str,
    **request: Any,
) -> None:
    """Render identities all around: those of MANIFEST (the base column and one per style), or

    \b
        diffstyle360 render --generator panohead.pkl --seeds 0-15 --rig orbit:32 --out heads

    without a manifest: heads/render/*.tar, and the manifest that says the same in heads/run.yaml.
    """
    from pipeline.devices import RENDER_THREADS, open_device
    from pipeline.stages.render import render_shard

    where = open_device(device, RENDER_THREADS)
    if manifest is None:
        folder = open_rendering(request, out)
    elif is_given(request):
        raise click.UsageError("give a manifest, or --generator and its options, not both")
    else:
        folder = open_run(manifest, out or Path("runs"))
    for column in columns or folder.run.columns:
        for shard in _missing_shards(folder, column, shards or folder.run.shard_names()):
            render_shard(folder, column, shard, where)
    _check_allowance(folder, columns or folder.run.columns, shards)
    if manifest is None:
        print(folder.column("render"))


@cli.command()
@takes_run
@click.option(
    "--column", "columns", multiple=True, help="Only 'render' or 'style-NAME' (repeatable)."
)
@shard_option
@device_option
def encode(
    manifest: Path, out: Path, columns: tuple[str, ...], shards: tuple[str, ...], device: str
) -> None:
    """Encode rendered columns to latents, for a fine-tune with `cache_latents`.

    Writes latents-render and latents-style-NAME of the train split, with the autoencoder that
    finetune.start has.
    """
    from manifests.stylizer import TRAIN_SPLIT
    from pipeline.devices import STYLIZE_THREADS, open_device
    from pipeline.stages.encode import encode_shard, open_encoder

    folder = open_run(manifest, out)
    encoder = open_encoder(folder, open_device(device, STYLIZE_THREADS))
    chosen = columns or folder.run.encoded_columns
    for column in chosen:
        wanted = shards or folder.run.shard_names(TRAIN_SPLIT)
        for shard in _missing_shards(folder, f"latents-{column}", wanted):
            encode_shard(encoder, column, shard)
    _check_allowance(folder, [f"latents-{column}" for column in chosen], shards)


@cli.command()
@takes_run
@click.option("--cpu", is_flag=True, help="Train on the CPU even where there is a GPU.")
def finetune(manifest: Path, out: Path, cpu: bool) -> None:
    """Fine-tune DiffStyle360 on the train split; continues where it was stopped.

    Several GPUs: `accelerate launch --multi_gpu -m pipeline.cli finetune MANIFEST`.
    """
    from accelerate import PartialState

    from pipeline.devices import FINETUNE_THREADS, open_device
    from pipeline.stages.finetune import finetune_run

    folder = open_run(manifest, out)
    open_device(str(PartialState(cpu=cpu).device), FINETUNE_THREADS)  # this process's own GPU
    finetune_run(folder)


@cli.command()
@click.argument("manifest", required=False, type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path),
    help="Folder of all runs [runs]; with --content, of this stylization alone.",
)  # fmt: skip
@click.option(
    "--reference", "references", multiple=True, help="Only this one of a run (repeatable)."
)
@click.option(
    "--column", "columns", multiple=True,
    help="Only this one of a bulk manifest, e.g. stylized-ink.v8 (repeatable).",
)  # fmt: skip
@shard_option
@device_option
@click.option(
    "--compile", "compiled", is_flag=True,
    help="The denoiser by torch.compile: minutes at first, then faster; other rounding.",
)  # fmt: skip
@takes_content
def stylize(
    manifest: Path | None,
    out: Path | None,
    references: tuple[str, ...],
    columns: tuple[str, ...],
    shards: tuple[str, ...],
    device: str,
    compiled: bool,
    **request: Any,
) -> None:
    """Stylize a split, once per style reference, or images of any origin: as MANIFEST says, or

    \b
        diffstyle360 stylize --content portraits --style ink.png --model stylizer --out inked

    without a manifest: inked/stylized-ink/*.tar. An image that cannot be used is a failed sample,
    whose record says why, and the others go on.
    """
    from pipeline.devices import STYLIZE_THREADS, open_device
    from pipeline.stages.stylize import open_stylization, stylize_shard

    if manifest is None:
        if references or columns:
            option = "--reference" if references else "--column"
            raise click.UsageError(f"{option} goes with a manifest")
        made = stylize_content(request, out, shards, device, compiled)
        print(*made, sep="\n")
        if not shards:
            _check_failures(made[0].parent, made, request["allow_failed"] or 0.0)
        return
    if is_given(request):
        raise click.UsageError("give a manifest, or --content and its options, not both")
    folder = open_folder(manifest, out or Path("runs"))
    where = open_device(device, STYLIZE_THREADS)
    if isinstance(folder, BulkFolder):
        from pipeline.stages.bulk_run import stylize_planned

        if references:
            raise click.UsageError("--reference goes with the manifest of a run; give --column")
        chosen = stylize_planned(folder, columns, shards, where, compiled)
        if not shards:
            _check_bulk(folder, chosen)
        return
    if columns:
        raise click.UsageError("--column goes with a bulk manifest; give --reference")
    stylization = open_stylization(folder, where, compiled)
    names = references or tuple(stylization.settings.references)
    wanted = shards or folder.run.shard_names(stylization.settings.split)
    for name in names:
        for shard in _missing_shards(folder, f"stylized-{name}", wanted):
            stylize_shard(stylization, name, shard)
    _check_allowance(folder, [f"stylized-{name}" for name in names], shards)


@cli.command()
@takes_run
def report(manifest: Path, out: Path) -> None:
    """Gather pictures, figures and counts in one HTML file that opens offline."""
    folder = open_folder(manifest, out)
    if isinstance(folder, BulkFolder):
        from pipeline.stages.bulk_report import report_bulk

        report_bulk(folder)
    else:
        from pipeline.stages.report import report_run

        report_run(folder)
    print(folder.report_path)


@cli.command()
@click.argument("target", type=click.Path(path_type=Path))
@click.option(
    "--out", default="runs", show_default=True, type=click.Path(path_type=Path),
    help="Folder of all runs.",
)  # fmt: skip
@click.option(
    "--workers", type=click.IntRange(1), default=1, show_default=True, help="Shards at a time."
)
@click.option(
    "--repair", is_flag=True, help="Remove a run's damaged shards, so that it makes them again."
)
def verify(target: Path, out: Path, workers: int, repair: bool) -> None:
    """Check every shard of TARGET: a manifest, the folder of a column, or a folder of columns.

    Hashes, counts, ends of archives, indexes, schemas, cameras, and that every member decodes. A
    run's columns must hold exactly the planned samples; those that pass get a wids index. The
    columns of a folder must zip.
    """
    from pipeline.stages.verify import verify_folder, verify_run

    if target.is_dir():
        if repair:
            raise click.UsageError("--repair goes with a manifest, by which shards are made again")
        print(f"{target}: {verify_folder(target, workers)} samples, all whole")
        return
    folder = open_folder(target, out)
    print(f"{folder.path}: {verify_run(folder, workers, repair)} samples, all whole")
    if isinstance(folder, BulkFolder):
        _check_bulk(folder, list(folder.shards))
        return
    run = folder.run
    _check_allowance(folder, list(run.made_columns), ())


def _missing_shards(folder: RunFolder, column: str, shards: Sequence[str]) -> list[str]:
    from pipeline.shards.writer import is_committed

    known = dict.fromkeys(folder.run.shard_names())
    for shard in shards:
        if shard not in known:
            told = ", ".join([*itertools.islice(known, SHOWN), "..."][: len(known)])
            raise PipelineError(f"no shard {shard!r} in this run; it has {len(known)}: {told}")
    return [shard for shard in shards if not is_committed(folder.column(column), shard)]


def _check_allowance(folder: RunFolder, columns: Sequence[str], shards: Sequence[str]) -> None:
    """Exit with 1 where more samples failed than the manifest allows; only whole columns count."""
    if not shards:
        for column in columns:
            path = folder.column(column)
            _check_failures(path, [path], folder.run.allow_failed)


def _check_bulk(folder: BulkFolder, columns: Sequence[str]) -> None:
    paths = [folder.column(column) for column in columns]
    _check_failures(folder.path, paths, folder.bulk.allow_failed)


def _check_failures(where: Path, columns: Sequence[Path], allowed: float) -> None:
    from pipeline.counts import count_column

    count = count_column(*columns)
    if count.failed > allowed * count.total:
        print(
            f"diffstyle360: {where}: {count.failed} of {count.total} samples failed, "
            f"more than allow_failed {allowed:g}: {count.summary()}",
            file=sys.stderr,
        )
        sys.exit(1)


if __name__ == "__main__":
    main()
