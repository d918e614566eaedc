"""Weights from elsewhere: Stable Diffusion 1.5, AnimateDiff, ControlNet and DiffPortrait360."""

from stylize.weights.assembly import Imported, import_weights
from stylize.weights.report import ImportReport, PartReport, SourceReport
from stylize.weights.starts import start_style

__all__ = [
    "ImportReport",
    "Imported",
    "PartReport",
    "SourceReport",
    "import_weights",
    "start_style",
]
