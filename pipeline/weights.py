"""The verb that makes a stylizer out of published weights."""

from dataclasses import replace
from pathlib import Path

import click

DTYPES = ("bfloat16", "float16", "float32")
weights = click.Path(path_type=Path)


@click.command("convert-stylizer")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--base", type=weights, help="Stable Diffusion 1.5: a pipeline's folder or one file.")
@click.option("--multiview", type=weights, help="DiffPortrait360's model_state-*.th.")
@click.option("--back-view", type=weights, help="DiffPortrait360's back_head-*.th.")
@click.option("--motion", type=weights, help="AnimateDiff v1's motion modules: file or folder.")
@click.option("--camera", type=weights, help="A ControlNet for SD 1.5: file or folder.")
@click.option(
    "--dtype", type=click.Choice(DTYPES), default="bfloat16", show_default=True,
    help="Of all weights.",
)  # fmt: skip
@click.option(
    "--window", type=click.IntRange(1), default=16, show_default=True,
    help="Views that the motion modules see at once.",
)  # fmt: skip
@click.option(
    "--image-size", type=click.IntRange(8), default=512, show_default=True, help="In pixels."
)
@click.option(
    "--lora-rank", type=click.IntRange(0), default=64, show_default=True,
    help="Of the style encoder's updates to the reference net; 0: weights of its own.",
)  # fmt: skip
@click.option(
    "--reference-timestep", type=click.Choice(["same", "zero"]), default="same", show_default=True,
    help="At which references are read; zero: once for all steps, for a fine-tune from these.",
)  # fmt: skip
@click.option(
    "--ignore", multiple=True, metavar="PREFIX",
    help="Leave out keys that start so, though they are unknown (repeatable).",
)  # fmt: skip
def convert_stylizer(
    folder: Path,
    base: Path | None,
    multiview: Path | None,
    back_view: Path | None,
    motion: Path | None,
    camera: Path | None,
    dtype: str,
    window: int,
    image_size: int,
    lora_rank: int,
    reference_timestep: str,
    ignore: tuple[str, ...],
) -> None:
    """Assemble a stylizer from published weights into FOLDER: config.json and model.safetensors.

    \b
        diffstyle360 convert-stylizer sd15 --base v1-5.safetensors --motion mm_sd_v15.ckpt
        diffstyle360 convert-stylizer dp360 --multiview model_state.th --back-view back_head.th

    Nothing in the files is executed. What none of them has begins anew: the reference net as the
    UNet, the motion modules as the identity, the camera net without effect. Every key must fit; a
    table says what went where.
    """
    import torch

    from stylize.weights import import_weights

    imported = import_weights(
        base=base,
        motion=motion,
        camera=camera,
        multiview=multiview,
        back_view=back_view,
        window=window,
        image_size=image_size,
        lora_rank=lora_rank,
        ignore=ignore,
    )
    config = replace(imported.config, reference_timestep=reference_timestep)
    imported = replace(imported, config=config)
    imported.write(folder, getattr(torch, dtype))
    parameters = sum(tensor.numel() for tensor in imported.state.values())
    print(imported.report.table())
    print(f"{folder}: {len(imported.state)} tensors, {parameters / 1e6:.1f} M numbers, {dtype}")
