"""A user's ONNX network as a function from images to features: ArcFace, Inception."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from stylize.config import StylizerError


class OnnxFeatures:
    """Images [N, 3, H, W] in [-1, 1], RGB, to features [N, F], float32 on the CPU.

    They are resized to the network's own input (`default_size` where it leaves that open).
    """

    def __init__(self, session: Any, path: Path, size: int):
        self._session, self._path = session, path
        self._name = session.get_inputs()[0].name
        self.size = size

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        sides = (self.size, self.size)
        pixels = F.interpolate(images.float(), sides, mode="bilinear", antialias=True).clamp(-1, 1)
        # one by one: many published files have a batch of one baked in
        rows = [self._run(image[None]) for image in pixels.cpu().numpy()]
        features = torch.from_numpy(np.concatenate(rows))
        if not features.isfinite().all():
            raise StylizerError(f"{self._path}: its features are not finite")
        return features

    def _run(self, image: np.ndarray) -> np.ndarray:
        try:
            features = self._session.run(None, {self._name: image})[0]
        except Exception as error:  # the runtime's own exceptions share no other base
            reason = " ".join(str(error).split())
            raise StylizerError(f"{self._path}: fails on an image ({reason[:160]})") from None
        return np.asarray(features, dtype=np.float32).reshape(1, -1)


def load_onnx(path: Path, default_size: int, device: torch.device) -> OnnxFeatures:
    """Open an ONNX file with one image input and take its first output.

    Raises StylizerError where onnxruntime is not installed, the file is not readable, or its input
    is not [N, 3, S, S].
    """
    try:
        import onnxruntime
    except ModuleNotFoundError:
        raise StylizerError(
            f"{path}: ONNX files take onnxruntime: pip install 'diffstyle360[perceptual]'"
        ) from None
    if not path.is_file():
        raise StylizerError(f"{path}: no such file")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # what goes wrong is raised
    there = onnxruntime.get_available_providers()
    wanted = ["CUDAExecutionProvider"] if device.type == "cuda" else []
    providers = [name for name in (*wanted, "CPUExecutionProvider") if name in there]
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # the runtime's own exceptions share no other base
        reason = " ".join(str(error).split())
        raise StylizerError(f"{path}: not a readable ONNX file ({reason[:120]})") from None
    shape = session.get_inputs()[0].shape if len(session.get_inputs()) == 1 else []
    height, width = shape[2:] if len(shape) == 4 else (0, -1)
    sizes = [side if isinstance(side, int) else default_size for side in (height, width)]
    if len(shape) != 4 or shape[1] not in (3, None) or sizes[0] != sizes[1] or sizes[0] < 1:
        raise StylizerError(f"{path}: takes {shape}, not one image [N, 3, S, S]")
    return OnnxFeatures(session, path, sizes[0])
