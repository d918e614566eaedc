"""The sections of a run manifest about the stylizer: how it is trained and what it makes.

Where a stylizer's folder is named, `demo` is the one in the package.
"""

from typing import Annotated, Any, Literal

import pydantic
from pydantic import AfterValidator, Field

from manifests.sections import FilePath, Fraction, Name, Section

MODEL_FILES = "config.json", "model.safetensors"  # of a stylizer's folder
TRAIN_SPLIT = "train"  # the one that a fine-tune learns from


def _check_strides(strides: tuple[int, int]) -> tuple[int, int]:
    low, high = strides
    if not 1 <= low <= high:
        raise ValueError(f"{low} to {high}: the lower first, from 1 on")
    return strides


Hint = Literal["content", "camera"]
Strides = Annotated[tuple[int, int], Field(strict=False), AfterValidator(_check_strides)]


class Hints(Section):
    """How often the structure hint is the content's own view, or another identity's."""

    content: Annotated[float, Field(ge=0)] = 1.0
    camera: Annotated[float, Field(ge=0)] = 0.0

    @pydantic.model_validator(mode="after")
    def _some_hint(self) -> "Hints":
        if self.content + self.camera == 0:
            raise ValueError("content and camera are both 0: nothing to train on")
        return self


class Losses(Section):
    """Weights of the terms beside the denoising error; 0 leaves a term out."""

    view_consistency: Annotated[float, Field(ge=0)] = 0.0  # neighbouring views, by the true depth
    identity: Annotated[float, Field(ge=0)] = 0.0  # what the reference net sees, against the target
    style: Annotated[float, Field(ge=0)] = 0.0  # patch statistics, against the style image
    detail: Annotated[float, Field(ge=0)] = 0.0  # the error about its local mean
    below: Fraction = 0.3  # of the schedule: noisier clips have none of them


class Validation(Section):
    """What a fine-tune is looked at with: identities, and styles, that it never trains on."""

    split: Name = "test"
    styles: Annotated[tuple[Name, ...], Field(strict=False)] = ()  # of the run's, held out
    every: Annotated[int, Field(ge=1)]  # steps
    clips: Annotated[int, Field(ge=1)] = 8  # in styles trained on, and as many in those held out
    sample_every: Annotated[int | None, Field(ge=1)] = None  # steps; none: no pictures


class Finetune(Section):
    """DiffStyle360 on the train split of the rendered column and its styles."""

    styles: Annotated[
        tuple[Name, ...], Field(strict=False)
    ] = ()  # which of the run's; none named: all but those held out for validation
    train: Literal["all", "style"] = "all"  # style: what DiffStyle360 adds, on a base that is given
    steps: Annotated[int, Field(ge=1)]
    batch: Annotated[int, Field(ge=1)] = 2  # clips a micro-batch, over all processes
    accumulate: Annotated[int, Field(ge=1)] = 1  # micro-batches a step
    views: Annotated[int, Field(ge=1)] = 8  # a clip
    strides: Strides = (1, 1)  # from view to view in the rig, drawn for each clip between these
    frontal: Fraction = 0.0  # clips whose middle view is at most 45 degrees from the front
    resolution: Annotated[int | None, Field(ge=16)] = None  # of images; none: the stylizer's
    hints: Hints = Hints()
    plain: Fraction = 0.0  # clips without a style image, whose target is plain: what presence 0 is
    realistic: Fraction = 0.1  # of others: clips whose style image is a plain render, as the target
    augment: bool = True  # style images mirrored, turned and cropped a little
    faint: Fraction = 0.0  # clips with a presence drawn below 1, and a target that far from plain
    recolour: Fraction = 0.0  # clips whose style image and target get other hues, both the same
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1e-4  # of new parts
    inherited_rate: Annotated[float | None, Field(gt=0, le=1)] = (
        None  # of what starts trained; none: a tenth of it, with a start, else the same
    )
    losses: Losses = Losses()
    precision: Literal["exact", "fast"] = "exact"  # exact: float32 | fast: bfloat16
    gradient_checkpointing: bool = False  # less memory, more time; changes no result
    cache_latents: bool = False  # of a stylizer with an autoencoder: encode once, train on that
    validation: Validation | None = None
    checkpoint_every: Annotated[int, Field(ge=1)] = 500  # steps
    start: FilePath = None  # a stylizer's folder, or demo; none: the demo's sizes, weights random


class Reference(Section):
    """One style image: a file, or the one that each sample of a style's column carries.

    It may set dials and a hint of its own: the same style fainter, or a baseline beside it.
    """

    image: FilePath = None
    style: Name | None = None
    presence: Fraction | None = None  # none: the section's
    temperature: Annotated[float | None, Field(gt=0, le=100)] = None
    gated: bool | None = None
    hint: Hint | None = None

    @pydantic.model_validator(mode="after")
    def _one_of(self) -> "Reference":
        if (self.image is None) == (self.style is None):
            raise ValueError("give exactly one of 'image' (a file) and 'style' (one of the run's)")
        return self


class Sampling(Section):
    """How views are sampled; a table, or a reference, may set dials of its own."""

    sampler: Literal["ddim", "dpm++", "unipc"] = "ddim"
    steps: Annotated[int, Field(ge=1, le=500)] = 50
    eta: Fraction = 0.0  # of ddim: the share of fresh noise in each step
    start: Literal["noise", "hint"] = "noise"  # hint: the hint's own latents, noised
    presence: Fraction = 1.0  # lambda: 0 is off, exactly
    temperature: Annotated[float, Field(gt=0, le=100)] = 1.0  # T: style keys are scaled by 1/T
    content_guidance: Annotated[float, Field(ge=0)] = 1.0
    style_guidance: Annotated[float, Field(ge=0)] = 1.0
    precision: Literal["exact", "fast"] = "exact"  # exact: float32 | fast: bfloat16

    @pydantic.model_validator(mode="after")
    def _eta_of_ddim(self) -> "Sampling":
        if self.eta and self.sampler != "ddim":
            raise ValueError(f"eta: {self.eta:g} is of ddim alone, but sampler is {self.sampler}")
        return self


class Stylize(Sampling):
    """The bulk stylization of a split, once per reference."""

    split: Name = "test"
    references: Annotated[dict[Name, Reference], Field(min_length=1)]
    model: FilePath = None  # a stylizer's folder, or demo; none: the one that this run fine-tunes
    hint: Hint = "content"
    gated: bool = True  # false: plain concatenation without the learned gate, a baseline

    def hint_of(self, reference: str) -> Hint:
        """What shows structure to one reference: its own hint in the section's place."""
        return self.references[reference].hint or self.hint

    def sampling(self, reference: str) -> dict[str, Any]:
        """How one reference is sampled: the section's settings, its own dials in their place."""
        names = ("sampler", "steps", "eta", "start", "content_guidance", "style_guidance")
        own = self.references[reference]
        dials = {name: getattr(own, name) for name in ("presence", "temperature", "gated")}
        return {name: getattr(self, name) for name in names} | {
            name: getattr(self, name) if value is None else value for name, value in dials.items()
        }
