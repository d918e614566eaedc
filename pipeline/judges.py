"""Judges: the networks with the user's weights that `evaluate` may ask beside its own measures."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from stylize import perceptual
from stylize.perceptual.clip import ClipEmbedding
from stylize.perceptual.lpips import Lpips
from stylize.perceptual.onnx import OnnxFeatures

BATCH = 16  # images at a time
ARCFACE_SIZE, INCEPTION_SIZE = 112, 299  # where the file leaves it open
WHOLE = (0.0, 0.0, 1.0)

Embed = Callable[[torch.Tensor], torch.Tensor]


@dataclass
class Pictures:
    """Images of one identity, all of one size S, with what is known of them."""

    images: torch.Tensor  # [V, 3, S, S] in [-1, 1]
    mask: torch.Tensor  # [V, 1, S, S] in [0, 1]
    depth: torch.Tensor | None = None  # [V, 1, R, R]
    background: float = float("inf")  # the distance that means that there is nothing
    features: dict[str, torch.Tensor] = field(default_factory=dict)  # [V, F] of each judge asked


@dataclass(frozen=True)
class Judges:
    """Those whose weights were given; the others are None."""

    clip: ClipEmbedding | None = None
    csd: ClipEmbedding | None = None
    lpips: Lpips | None = None
    arcface: OnnxFeatures | None = None
    inception: OnnxFeatures | None = None
    face: tuple[float, float, float] = WHOLE  # left, top and side of ArcFace's crop, of the image
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def features(self, judge: str, pictures: Pictures) -> torch.Tensor | None:
        """What `judge` says of each picture, [V, F] float32; None where it was not given.

        ArcFace's are unit vectors of the crop `face`. Asked once a set of pictures.
        """
        network: Embed | None = getattr(self, judge)
        if network is None:
            return None
        if judge not in pictures.features:
            images = pictures.images
            if judge == "arcface":
                images = _crop(images, self.face)
            parts = [network(part.to(self.device)).cpu() for part in images.split(BATCH)]
            features = torch.cat(parts)
            if judge == "arcface":
                features = torch.nn.functional.normalize(features, dim=-1)
            pictures.features[judge] = features
        return pictures.features[judge]

    def distances(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor | None:
        """LPIPS between images [V, 3, S, S], [V] float64; None where it was not given."""
        if self.lpips is None:
            return None
        pairs = zip(first.split(BATCH), second.split(BATCH), strict=True)
        parts = [self.lpips(a.to(self.device), b.to(self.device)).cpu() for a, b in pairs]
        return torch.cat(parts).double()


def open_judges(
    device: torch.device,
    *,
    clip: Path | None = None,
    csd: Path | None = None,
    lpips: tuple[Path, Path] | None = None,
    arcface: Path | None = None,
    inception: Path | None = None,
    face: tuple[float, float, float] = WHOLE,
) -> Judges:
    """Load what is given: a CLIP folder, a CSD checkpoint, VGG16 and LPIPS's heads, two ONNX files.

    Raises StylizerError in one line for the first that is not what it should be.
    """
    return Judges(
        clip=perceptual.load_clip(clip).to(device) if clip else None,
        csd=perceptual.load_csd(csd).to(device) if csd else None,
        lpips=perceptual.load_lpips(*lpips).to(device) if lpips else None,
        arcface=perceptual.load_onnx(arcface, ARCFACE_SIZE, device) if arcface else None,
        inception=perceptual.load_onnx(inception, INCEPTION_SIZE, device) if inception else None,
        face=face,
        device=device,
    )


def _crop(images: torch.Tensor, face: tuple[float, float, float]) -> torch.Tensor:
    left, top, side = (round(share * images.shape[-1]) for share in face)
    return images[..., top : top + max(1, side), left : left + max(1, side)]
