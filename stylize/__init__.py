"""DiffStyle360: 360-degree stylization of heads from one style image. Tensors in, tensors out."""

from stylize.back_view import generate_back
from stylize.banks import BankCache
from stylize.config import StylizerConfig, StylizerError, demo, sd15
from stylize.model import DiffStyle360
from stylize.sampling import Sampling, stylize_views
from stylize.training import FinetuneSettings, Triplets, finetune

__all__ = [
    "BankCache",
    "DiffStyle360",
    "FinetuneSettings",
    "Sampling",
    "StylizerConfig",
    "StylizerError",
    "Triplets",
    "demo",
    "finetune",
    "generate_back",
    "sd15",
    "stylize_views",
]
