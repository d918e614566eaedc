"""Fine-tuning: triplets in, a stylizer with averaged weights out."""

from stylize.training.loop import finetune
from stylize.training.settings import FinetuneSettings
from stylize.training.triplets import Triplets

__all__ = ["FinetuneSettings", "Triplets", "finetune"]
