"""DiffStyle360: 360-degree stylization of heads from one style image. Tensors in, tensors out."""

from stylize.config import StylizerConfig, StylizerError, demo
from stylize.finetune import FinetuneSettings, Triplets, finetune
from stylize.model import DiffStyle360
from stylize.sampling import stylize_views

__all__ = [
    "DiffStyle360",
    "FinetuneSettings",
    "StylizerConfig",
    "StylizerError",
    "Triplets",
    "demo",
    "finetune",
    "stylize_views",
]
