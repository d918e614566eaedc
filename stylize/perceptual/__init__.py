"""Metrics from networks whose weights the user gives, as files; nothing is downloaded.

Images are float tensors [N, 3, H, W] in [-1, 1], square; all but LPIPS are resized to the network's
input. A file that is missing, or is not what it should be, raises StylizerError in one line.
"""

from stylize.perceptual.clip import load_clip, load_csd
from stylize.perceptual.lpips import load_lpips
from stylize.perceptual.onnx import load_onnx

__all__ = ["load_clip", "load_csd", "load_lpips", "load_onnx"]
