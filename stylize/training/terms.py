"""Terms of the loss beside the denoising error, on the clean latents that a prediction means.

Each takes a `Guess` of b clips and returns one value per clip, [b], 0 at the truth; but `style`
compares with another picture. None of them trains the network that it measures with.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from stylize.config import StylizerError
from stylize.geometry import warp
from stylize.model import DiffStyle360
from stylize.training.compute import computing
from stylize.training.patches import patch_distance
from stylize.training.settings import TERMS as NAMES
from stylize.training.settings import FinetuneSettings
from stylize.training.triplets import Latents, Triplets


@dataclass(frozen=True)
class Guess:
    """What the predictions for some clips of a batch mean, and what is true."""

    model: DiffStyle360
    settings: FinetuneSettings
    batch: Triplets
    latents: Latents  # of the batch
    clips: torch.Tensor  # [b], which of the batch's
    clean: torch.Tensor  # [b, V, C, h, w]

    @cached_property
    def pictures(self) -> torch.Tensor:
        """[b, V, 3, H, W]; the gradient runs through the codec, not into it."""
        return self._decode(self.clean)

    @cached_property
    def true_latents(self) -> torch.Tensor:
        """[b, V, C, h, w]."""
        return self.latents.target[self.clips]

    @cached_property
    def true_pictures(self) -> torch.Tensor:
        """[b, V, 3, H, W], as the codec gives them."""
        with torch.no_grad():
            return self._decode(self.true_latents)

    @cached_property
    def style_images(self) -> torch.Tensor:
        """[b, 3, H, W]."""
        images = self.batch.style[self.clips]
        if "style" not in self.batch.encoded:
            return images
        with torch.no_grad():
            return self._decode(images.unsqueeze(1))[:, 0]

    def _decode(self, latents: torch.Tensor) -> torch.Tensor:
        views, decode = latents.flatten(0, 1), self.model.decode
        with computing(self.settings, latents.device):
            if self.settings.gradient_checkpointing and latents.requires_grad:
                one_by_one = [
                    checkpoint(decode, view, use_reentrant=False) for view in views.split(1)
                ]
                images = torch.cat(one_by_one)
            else:
                images = decode(views)
        return images.float().unflatten(0, latents.shape[:2])


def view_consistency(guess: Guess) -> torch.Tensor:
    """How far neighbouring views disagree, warped onto each other by the target's own depth, beyond
    what the true views do.

    A warp is linear in the image, so this is the warp error of the pictures' ERROR: it is zero at
    the truth, whose own views never agree exactly, and blur alone does not lower it. Pictures are
    compared at the depth's size. Raises StylizerError for a batch without depth and cameras.
    """
    batch = guess.batch
    if batch.depth is None or batch.cameras is None:
        raise StylizerError("view_consistency: the triplets have no depth and cameras; give both")
    size = batch.depth.shape[-2:]
    error = guess.pictures - guess.true_pictures
    values = []
    for row, clip in enumerate(guess.clips.tolist()):
        seen = F.interpolate(error[row], size, mode="bilinear", antialias=True)  # [V, 3, H', W']
        depth, cameras = batch.depth[clip], batch.cameras[clip]
        pairs = []
        for i, j in _neighbours(len(seen)):
            warped, valid = warp(
                seen[i], depth[i], depth[j], cameras[i], cameras[j], background=batch.background
            )
            apart = ((warped - seen[j]) * valid).square().mean(0)
            pairs.append(apart.sum() / valid.sum().clamp(min=1))
        values.append(torch.stack(pairs).mean() if pairs else error.new_zeros(()))
    return torch.stack(values)


def identity(guess: Guess) -> torch.Tensor:
    """Mean squared difference between what the reference net sees in each view and in the target.

    The target is the content in the style: the only image of this identity with this palette, from
    this camera. Against the plain content the term would pull the content's colours back.
    """
    values = []
    for views, true in zip(guess.clean, guess.true_latents, strict=True):
        with torch.no_grad():
            wanted = _features(guess, true)
        if guess.settings.gradient_checkpointing:
            found = checkpoint(_features, guess, views, use_reentrant=False)
        else:
            found = _features(guess, views)
        apart = [(a - b).float().square().mean() for a, b in zip(found, wanted, strict=True)]
        values.append(torch.stack(apart).mean())
    return torch.stack(values)


def style(guess: Guess) -> torch.Tensor:
    """Sliced Wasserstein distance between the patches of each clip's views and of its style image.

    See `training.patches`; the foreground is what is not white, in the true views and in the style
    image. A clip without foreground has distance 0.
    """
    sides = guess.pictures, guess.true_pictures, guess.style_images
    return torch.stack(
        [
            patch_distance(views, _foreground(true), image[None], _foreground(image[None]))
            for views, true, image in zip(*sides, strict=True)
        ]
    )


def detail(guess: Guess) -> torch.Tensor:
    """Mean squared error of the pictures about its local mean over an eighth of the image.

    An error that a whole region shares, such as a wrong hue, does not count; eyes, make-up and
    outlines do, which are too small to weigh much in the denoising error.
    """
    error = (guess.pictures - guess.true_pictures).flatten(0, 1)  # [b V, 3, H, W]
    width = error.shape[-1] // 8 | 1  # odd, for windows with a centre
    shared = F.avg_pool2d(error, width, 1, width // 2, count_include_pad=False)
    return (error - shared).square().unflatten(0, guess.clean.shape[:2]).flatten(1).mean(1)


TERMS: dict[str, Callable[[Guess], torch.Tensor]] = {name: globals()[name] for name in NAMES}


def _neighbours(views: int) -> list[tuple[int, int]]:
    """Consecutive views, both ways."""
    return [pair for i in range(views - 1) for pair in ((i, i + 1), (i + 1, i))]


def _foreground(images: torch.Tensor, tolerance: float = 0.02) -> torch.Tensor:
    """[n, 3, H, W] -> bool [n, 1, H, W]: what is not the white background."""
    return images.amin(1, keepdim=True) < 1 - tolerance


def _features(guess: Guess, latents: torch.Tensor) -> list[torch.Tensor]:
    """The reference net's states for clean views [V, C, h, w], one per attention site."""
    model = guess.model
    with _only_read(model.reference_net), computing(guess.settings, latents.device):
        t = torch.zeros(len(latents), dtype=torch.long, device=latents.device)
        return list(model.content_banks(latents, None, t).values())


@contextmanager
def _only_read(net: Any) -> Iterator[None]:
    """Within, the net's weights get no gradient, and it keeps its activations.

    The state is put back before the backward pass: a block that is computed again there would not
    be the same, so the whole net is what `checkpoint` computes again, entering this once more.
    """
    parameters: list[nn.Parameter] = [p for p in net.parameters() if p.requires_grad]
    saved = net.is_gradient_checkpointing
    for parameter in parameters:
        parameter.requires_grad_(False)
    if saved:
        net.disable_gradient_checkpointing()
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
        if saved:
            net.enable_gradient_checkpointing()
