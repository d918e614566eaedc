"""Fine-tune: DiffStyle360 on triplets drawn from the zipped columns of the train split."""

import dataclasses
from contextlib import nullcontext
from functools import partial

from accelerate import PartialState

import stylize
from manifests.stylizer import TRAIN_SPLIT, Finetune
from pipeline.console import follow
from pipeline.errors import PipelineError
from pipeline.folders import RunFolder
from pipeline.seeds import derive_seed
from pipeline.stages.clips import Clips
from pipeline.stages.encode import check_latents, digest_codec
from pipeline.stages.held_out import open_held_out, write_sheet
from stylize import DiffStyle360, FinetuneSettings
from stylize.weights import start_style


def finetune_run(folder: RunFolder) -> None:
    """Train the run's stylizer, or go on after the newest checkpoint, and save it.

    Raises PipelineError where the manifest or the columns lack what training takes.
    """
    wanted = folder.run.finetune
    if wanted is None:
        raise PipelineError("the run manifest has no finetune section: nothing to train")
    model = _open_start(folder, wanted)
    if wanted.cache_latents:
        shards = folder.run.shard_names(TRAIN_SPLIT)
        check_latents(folder, list(folder.run.latent_columns), shards, digest_codec(model, wanted))
    own = model.config
    size = wanted.resolution or own.image_size
    model.config = dataclasses.replace(own, image_size=size)  # its networks take any
    clips = Clips(
        folder, TRAIN_SPLIT, folder.run.finetuned_styles, size, cached=wanted.cache_latents
    )
    held_out = open_held_out(folder, size)
    main = PartialState().is_main_process
    progress = follow("finetune", wanted.steps) if main else nullcontext()
    with progress as log:
        model = stylize.finetune(
            model,
            clips.batch,
            _settings(wanted, derive_seed(folder.run.seed, "finetune")),
            folder.checkpoints,
            validations={name: some.batch for name, some in held_out.items()},
            on_sample=partial(write_sheet, folder, held_out) if held_out else None,
            log=log,
        )
    model.config = own
    if wanted.plain == 1:
        start_style(model)  # which took no part
    if main:
        model.save_pretrained(folder.path / "stylizer")


def _open_start(folder: RunFolder, wanted: Finetune) -> DiffStyle360:
    """The stylizer to start from: the one given, or the small preset with random weights."""
    if wanted.start:
        return DiffStyle360.from_pretrained(wanted.start)
    return DiffStyle360(stylize.demo(), derive_seed(folder.run.seed, "weights"))


def _settings(wanted: Finetune, seed: int) -> FinetuneSettings:
    inherited_rate = wanted.inherited_rate
    if inherited_rate is None and wanted.start is None:
        inherited_rate = wanted.learning_rate  # nothing is inherited: all weights are random
    losses, looks = wanted.losses, wanted.validation
    return FinetuneSettings(
        steps=wanted.steps,
        batch=wanted.batch,
        accumulate=wanted.accumulate,
        learning_rate=wanted.learning_rate,
        inherited_rate=inherited_rate,
        train=wanted.train,
        seed=seed,
        drop_style=0.0 if wanted.plain else FinetuneSettings.drop_style,
        precision=wanted.precision,
        gradient_checkpointing=wanted.gradient_checkpointing,
        view_consistency=losses.view_consistency,
        identity=losses.identity,
        style=losses.style,
        detail=losses.detail,
        terms_below=losses.below,
        checkpoint_every=wanted.checkpoint_every,
        validate_every=looks.every if looks else None,
        validation_clips=looks.clips if looks else 1,
        sample_every=looks.sample_every if looks else None,
    )
