"""What a fine-tune is looked at with: clips of identities and styles that it never trains on."""

from collections.abc import Mapping

import numpy as np
import torch

from pipeline.folders import RunFolder
from pipeline.shards import codecs
from pipeline.shards.files import write_whole
from pipeline.stages import pictures
from pipeline.stages.clips import Clips
from stylize import DiffStyle360, Sampling, stylize_views

SEEN, UNSEEN = "seen_styles", "unseen_styles"
SHOWN = 4  # clips of a kind on a sheet
STEPS = 20  # of the sampler


def open_held_out(folder: RunFolder, image_size: int) -> dict[str, Clips]:
    """Clips of the validation split, in the styles trained on and in those held out; none of a kind
    that the manifest does not ask for."""
    wanted = folder.run.finetune.validation if folder.run.finetune else None
    if wanted is None:
        return {}
    kinds = {SEEN: folder.run.finetuned_styles, UNSEEN: wanted.styles}
    return {
        name: Clips(folder, wanted.split, styles, image_size, held_out=True)
        for name, styles in kinds.items()
        if styles
    }


def write_sheet(
    folder: RunFolder, clips: Mapping[str, Clips], model: DiffStyle360, done: int
) -> None:
    """samples/step-NNNNNN.webp: a row per clip of content, style image, true views, output views.

    The same clips and the same noise each time.
    """
    assert folder.run.finetune is not None
    assert folder.run.finetune.validation is not None
    count = min(SHOWN, folder.run.finetune.validation.clips)
    steps = min(STEPS, model.config.train_timesteps)
    device = next(model.parameters()).device
    rows = []
    for some in clips.values():
        batch = some.batch(range(count)).to(device)
        output = stylize_views(
            model, batch.front, batch.back, batch.hint, batch.style, Sampling(steps=steps),
            list(range(count)),
        )  # fmt: skip
        parts = (batch.front[:, None], batch.style[:, None], batch.target, output)
        rows += [_to_row(torch.cat(images)) for images in zip(*parts, strict=True)]
    target = folder.samples / f"step-{done:06d}.webp"
    target.parent.mkdir(parents=True, exist_ok=True)
    write_whole(target, pictures.encode_webp(pictures.contact_sheet(rows)))


def _to_row(images: torch.Tensor) -> list[np.ndarray]:
    return list(pictures.thumbnails(codecs.to_uint8(images.float().cpu())))
