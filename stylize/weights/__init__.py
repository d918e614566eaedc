"""Weights from elsewhere: Stable Diffusion 1.5, AnimateDiff, ControlNet and DiffPortrait360."""

from stylize.weights.assembly import Imported, import_weights
from stylize.weights.report import ImportReport, PartReport, SourceReport

__all__ = ["ImportReport", "Imported", "PartReport", "SourceReport", "import_weights"]
