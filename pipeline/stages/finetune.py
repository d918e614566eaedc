"""Fine-tune: DiffStyle360 on triplets drawn from the zipped columns of the train split."""

from typing import Any

import numpy as np
import torch
from accelerate import PartialState

import stylize
from manifests.run import Finetune
from pipeline.console import follow
from pipeline.errors import PipelineError
from pipeline.folders import RunFolder
from pipeline.images import to_model
from pipeline.seeds import derive_seed
from pipeline.shards.reader import Column, epoch_order, read_clip, zip_columns
from stylize import DiffStyle360, FinetuneSettings, Triplets

SPLIT = "train"


def finetune_run(folder: RunFolder) -> None:
    """Train the run's stylizer, or go on after the newest checkpoint, and save it.

    Raises PipelineError where the manifest or the columns lack what training takes.
    """
    wanted = folder.run.finetune
    if wanted is None:
        raise PipelineError("the run manifest has no finetune section: nothing to train")
    model = _open_start(folder, wanted)
    clips = Clips(folder, wanted, model.config.image_size)
    processes = PartialState().num_processes
    settings = FinetuneSettings(
        steps=wanted.steps,
        learning_rate=wanted.learning_rate,
        checkpoint_every=wanted.checkpoint_every,
        seed=derive_seed(folder.run.seed, "finetune"),
    )

    def batch_at(number: int) -> Triplets:
        step, rank = divmod(number, processes)
        first = step * wanted.batch
        return clips.batch(range(first, first + wanted.batch)[rank::processes])

    with follow("finetune", wanted.steps) as log:
        model = stylize.finetune(model, batch_at, settings, folder.checkpoints, log=log)
    if PartialState().is_main_process:
        model.save_pretrained(folder.path / "stylizer")


def _open_start(folder: RunFolder, wanted: Finetune) -> DiffStyle360:
    """The stylizer to start from: the one given, or the small preset with random weights."""
    if wanted.start:
        return DiffStyle360.from_pretrained(wanted.start)
    return DiffStyle360(stylize.demo(), derive_seed(folder.run.seed, "weights"))


class Clips:
    """The training clips of a run, by number: clip n is the same whatever was drawn before it.

    One sample of a column is one identity with all its views, so a clip costs one contiguous read
    from the content's, the style's and the hint's shards each. Raises PipelineError where fewer
    than two identities are in every column.
    """

    def __init__(self, folder: RunFolder, wanted: Finetune, image_size: int):
        self.seed, self.views, self.wanted = folder.run.seed, folder.run.rig.count, wanted
        self.image_size = image_size
        shards = folder.run.shard_names(SPLIT)
        self.content = Column(folder.column("render"), shards)
        self.styles = [
            Column(folder.column(f"style-{style}"), shards) for style in folder.run.finetuned_styles
        ]
        self.keys = zip_columns([self.content, *self.styles])
        if len(self.keys) < 2:
            raise PipelineError(
                f"{folder.path}: {len(self.keys)} identities of split {SPLIT!r} are in every "
                "column; fine-tuning takes two at least: raise identities.train"
            )
        self.content_share = wanted.hints.content / (wanted.hints.content + wanted.hints.camera)

    def clip(self, number: int) -> dict[str, Any]:
        """One clip: its key; front, back, style [3, S, S]; hint, target [V, 3, S, S]."""
        epoch, place = divmod(number, len(self.keys))
        order = epoch_order(self.keys, self.seed, epoch)
        key = order[place]
        draw = np.random.default_rng(derive_seed(self.seed, "clip", number))
        style = self.styles[draw.integers(len(self.styles))]
        start = int(draw.integers(self.views))
        views = [(start + i) % self.views for i in range(self.wanted.views)]
        hinted = key
        if draw.random() >= self.content_share:
            hinted = order[(place + 1 + draw.integers(len(order) - 1)) % len(order)]  # not `key`
        front, back = self._read(self.content, key, [0, self.views // 2])
        reference = np.stack(list(style.read(key, ["reference_00.rgb"]).values()))
        return {
            "key": key,
            "front": front,
            "back": back,
            "style": to_model(reference, self.image_size)[0],
            "hint": self._read(self.content, hinted, views),
            "target": self._read(style, key, views),
        }

    def batch(self, numbers: range) -> Triplets:
        """The clips of these numbers as one batch."""
        clips = [self.clip(number) for number in numbers]
        keys = [clip.pop("key") for clip in clips]
        return Triplets(
            keys=keys, **{name: torch.stack([clip[name] for clip in clips]) for name in clips[0]}
        )

    def _read(self, column: Column, key: str, views: list[int]) -> torch.Tensor:
        return to_model(read_clip(column, key, views), self.image_size)
