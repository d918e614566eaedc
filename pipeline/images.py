"""Images between shards (uint8, [., H, W, 3]) and models (float32, [., 3, S, S] in [-1, 1])."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps

from pipeline.errors import PipelineError

MAX_PIXELS = 64_000_000


def to_model(images: np.ndarray, size: int) -> torch.Tensor:
    """[., H, W, 3] uint8 -> [., 3, size, size] in [-1, 1], antialiased where it shrinks."""
    tensor = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    return resize(tensor, size)


def resize(images: torch.Tensor, size: int) -> torch.Tensor:
    """[., C, H, W] -> [., C, size, size], bilinear, antialiased where it shrinks."""
    if images.shape[-2:] == (size, size):
        return images
    return F.interpolate(images, (size, size), mode="bilinear", antialias=True)


def read_image(path: Path) -> np.ndarray:
    """A style image from a file: upright, on white, its centred square. Returns [S, S, 3] uint8.

    Raises PipelineError where the file is missing, is no image, or is too large.
    """
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise PipelineError(f"{path}: {image.width}x{image.height} pixels, over the limit")
            upright = ImageOps.exif_transpose(image).convert("RGBA")
    except (OSError, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or "not an image that can be read"
        raise PipelineError(f"{path}: {reason}") from None
    paper = Image.new("RGBA", upright.size, "white")
    square = min(upright.size)
    fitted = ImageOps.fit(Image.alpha_composite(paper, upright).convert("RGB"), (square, square))
    return np.array(fitted)
