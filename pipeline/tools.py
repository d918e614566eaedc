"""The verbs that need no run: checkpoints, meshes, and columns as other programs want them."""

import sys
from pathlib import Path

import click

device_option = click.option(
    "--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N."
)


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path))
def convert(source: Path, folder: Path) -> None:
    """Turn an official EG3D, PanoHead or SphereHead .pkl into safetensors and JSON.

    Nothing in SOURCE is executed. FOLDER gets config.json and model.safetensors, and takes the
    place of the .pkl wherever a generator is named.
    """
    from eg3d_renderer.checkpoints import read_official, save_checkpoint
    from eg3d_renderer.generators import generator_of

    checkpoint = read_official(source)
    generator = generator_of(checkpoint)
    save_checkpoint(checkpoint, folder)
    parameters = sum(parameter.numel() for parameter in generator.parameters())
    size = generator.img_resolution or "any size"
    print(
        f"{folder}: {checkpoint.family}, {len(checkpoint.state)} tensors, "
        f"{parameters / 1e6:.1f} M parameters, images of {size}, "
        f"digest {generator.digest[:12]}"
    )


@click.command()
@click.option("--generator", required=True, help="As of render.")
@click.option("--seeds", required=True, help="Upstream's seeds, such as 0-15.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the files.")
@click.option("--format", type=click.Choice(["glb", "ply"]), default="glb", show_default=True)
@click.option(
    "--resolution", type=int, default=256, show_default=True, help="Points on a side of the box."
)
@click.option(
    "--level", type=float, default=10.0, show_default=True, help="Density of the surface."
)
@click.option("--psi", type=click.FloatRange(0, 1, min_open=True), help="Truncation.")
@device_option
def mesh(
    generator: str,
    seeds: str,
    out: Path,
    format: str,
    resolution: int,
    level: float,
    psi: float | None,
    device: str,
) -> None:
    """Write identities as closed, coloured surfaces: OUT/seed0017.glb."""
    from manifests.run import parse_seeds
    from pipeline.devices import RENDER_THREADS, open_device
    from pipeline.stages.mesh import export_meshes

    try:
        wanted = parse_seeds(seeds)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--seeds") from None
    where = open_device(device, RENDER_THREADS)
    for path in export_meshes(
        generator, wanted, out, where, format=format, resolution=resolution, level=level, psi=psi
    ):
        print(path)


@click.command()
@click.argument("column", type=click.Path(path_type=Path))
@click.argument("picture", type=click.Path(path_type=Path))
@click.option(
    "--rows", type=click.IntRange(1, 64), default=8, show_default=True, help="Identities."
)
@click.option("--views", type=click.IntRange(1, 64), default=8, show_default=True, help="Of each.")
def sheet(column: Path, picture: Path, rows: int, views: int) -> None:
    """Look at a column: some of its identities, each from some of its cameras, as one WebP."""
    from pipeline.shards.files import write_whole
    from pipeline.shards.reader import Column
    from pipeline.stages import pictures

    write_whole(picture, pictures.encode_webp(pictures.column_sheet(Column(column), rows, views)))
    print(picture)


@click.command()
@click.argument("column", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
def export(column: Path, out: Path) -> None:
    """Write a column's samples as folders of images, each with a NeRF transforms.json."""
    from pipeline.stages.export import export_column

    print(f"{out}: {export_column(column, out)} identities")


@click.command()
@click.option("--build", "build_first", is_flag=True, help="First compile every kernel.")
@click.option(
    "--into",
    type=click.Path(path_type=Path),
    help="With --build: a folder for the libraries; eg3d_renderer/ops/native/prebuilt: a wheel's.",
)
@device_option
def doctor(build_first: bool, into: Path | None, device: str) -> None:
    """Say what this machine computes with, and compare every native op with its reference.

    An op without a kernel runs as plain PyTorch, to the same results but slower. Exit code 1 where
    a kernel disagrees with its reference, 2 where --build cannot compile one.
    """
    from pipeline.devices import RENDER_THREADS, open_device
    from pipeline.doctor import compile_ops, examine

    where = open_device(device, RENDER_THREADS)
    if into is not None and not build_first:
        raise click.UsageError("--into goes with --build")
    if build_first:
        compile_ops(into)
    if not examine(where):
        sys.exit(1)
