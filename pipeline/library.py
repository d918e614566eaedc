"""The verbs that care for finished data sets: publish, merge, reshard, stats."""

import re
from pathlib import Path

import click

from pipeline.errors import PipelineError

UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
UNITS |= {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
NEAR = 4  # bits of 64; JPEG at quality 85 changes one on average, two other heads differ in 32

path_type = click.Path(path_type=Path)
runs_option = click.option(
    "--out", default="runs", show_default=True, type=path_type, help="Folder of all runs."
)
columns_option = click.option("--column", "columns", multiple=True, help="Only this (repeatable).")
workers_option = click.option(
    "--workers", type=click.IntRange(1), default=1, show_default=True, help="Shards at a time."
)


def parse_size(text: str) -> int:
    """Bytes of ``500MB``, ``1.5GB`` or ``2GiB``. Raises BadParameter for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", text.strip().lower(), re.ASCII)
    size = int(float(match[1]) * UNITS[match[2]]) if match and match[2] in UNITS else 0
    if not size:
        raise click.BadParameter(f"{text!r} is no size such as 500MB, 1GB or 2GiB")
    return size


def parse_shares(text: str) -> tuple[tuple[str, float], ...]:
    """Splits and shares of ``train=0.9,test=0.1``. Raises BadParameter for anything else."""
    from pipeline.datasets.reshard import check_shares

    shares = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*([a-z0-9][a-z0-9_-]{0,63})=(\d*\.?\d+)\s*", part, re.ASCII)
        if match is None:
            raise click.BadParameter(f"{part!r} is no share such as train=0.9")
        shares.append((match[1], float(match[2])))
    try:
        check_shares(shares)
    except PipelineError as error:
        raise click.BadParameter(str(error)) from None
    return tuple(shares)


@click.command()
@click.argument("target", type=path_type)
@click.argument("destination")
@runs_option
@columns_option
@click.option("--licence", help="Of the data: an identifier of the Hub, or any text.")
@click.option("--link", is_flag=True, help="Hard-link the tars instead of copying them.")
@workers_option
def publish(
    target: Path,
    destination: str,
    out: Path,
    columns: tuple[str, ...],
    licence: str | None,
    link: bool,
    workers: int,
) -> None:
    """Write a data set in the Hugging Face Hub's layout, with a data set card.

    TARGET is the manifest of a verified run, or a folder of columns, which is verified first.
    DESTINATION is a folder or any URL that fsspec opens, such as s3://bucket/heads or
    hf://datasets/me/heads. Run it again to go on where it was stopped; README.md comes last.
    """
    from pipeline.datasets.layout import open_collection
    from pipeline.datasets.places import open_place
    from pipeline.datasets.publish import publish as write

    place = open_place(destination, link)
    collection = open_collection(target, out, columns, workers)
    total = sum(map(len, collection.columns.values()))
    written = write(collection, place, licence)
    print(f"{place}: {total} shards, {written} of them new")


@click.command()
@click.argument("runs", nargs=-1, required=True, type=path_type)
@click.option("--out", required=True, type=path_type, help="Folder of the collection.")
@columns_option
@click.option("--prefix", is_flag=True, help="Put each run's name in front of its keys.")
def merge(runs: tuple[Path, ...], out: Path, columns: tuple[str, ...], prefix: bool) -> None:
    """Put the columns of several runs together, so that they still zip.

    RUNS are folders of runs, or of columns. Shards are numbered on from run to run and copied as
    they are; with --prefix, which equal keys need, the members but for the JSON.
    """
    from pipeline.datasets.merge import merge as write

    for column, shards in write(runs, out, columns, prefix).items():
        print(f"{out / column}: {shards} shards")


@click.command()
@click.argument("columns", nargs=-1, required=True, type=path_type)
@click.option("--out", required=True, type=path_type, help="Folder of the new columns.")
@click.option("--identities", type=click.IntRange(1), help="Of a shard.")
@click.option("--size", type=parse_size, help="Of a tar at most, such as 1GB.")
@click.option(
    "--split", "shares", type=parse_shares, help="New splits, such as train=0.9,test=0.1."
)
def reshard(
    columns: tuple[Path, ...],
    out: Path,
    identities: int | None,
    size: int | None,
    shares: tuple[tuple[str, float], ...] | None,
) -> None:
    """Cut columns of one run into shards of another size, or into other splits, all alike.

    Members stay the same bytes; where splits are drawn anew, the JSON says the new one. An
    identity's split follows from its key alone.
    """
    from pipeline.datasets.reshard import Cut
    from pipeline.datasets.reshard import reshard as write

    if identities is None and size is None and not shares:
        raise click.UsageError("give --identities, --size or --split")
    for split, shards in write(columns, out, Cut(identities, size, shares or ())).items():
        print(f"{out}: {split}: {len(shards)} shards")


@click.command()
@click.argument("target", type=path_type)
@runs_option
@columns_option
@click.option("--deep", is_flag=True, help="Decode every view, and say which are odd.")
@workers_option
@click.option(
    "--near", type=click.IntRange(0, 8), default=NEAR, show_default=True,
    help="With --deep: identities whose fronts differ in so few of 64 bits are near duplicates.",
)  # fmt: skip
def stats(
    target: Path, out: Path, columns: tuple[str, ...], deep: bool, workers: int, near: int
) -> None:
    """Count the samples, bytes and seconds of a run or a column from its records alone.

    TARGET is a run's folder or manifest, or the folder of a column. With --deep every view is
    decoded, in WORKERS processes: what does not decode, is hardly a head, too dark, bright, clipped
    or blurred, has no depth, or shows an identity twice. Nothing is deleted; all measures are in
    COLUMN/quality/*.parquet, a row a view, and what is finished there is not done again.
    """
    from pipeline.datasets.columns import choose_columns
    from pipeline.datasets.stats import as_text, summarize

    folders = choose_columns(target, out, columns)
    print(as_text([summarize(folder) for folder in folders]))
    if deep:
        from pipeline.datasets import findings
        from pipeline.datasets.quality import examine

        examine(folders, workers)
        for folder in folders:
            print(f"\n{findings.as_text(findings.find_odd(folder, near))}")
