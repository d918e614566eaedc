"""Faces and their landmarks by YuNet, from an ONNX file of the user's.

Wu, Peng, Yu, "YuNet: A Tiny Millisecond-level Face Detector", Machine Intelligence Research 2023.
The OpenCV Zoo has the weights (MIT): face_detection_yunet_2023mar.onnx takes 640 x 640 pixels,
face_detection_yunet_2026may.onnx is the same for any size. Input: BGR, 0 to 255. Output, at each
stride a row a cell of the grid: cls_S and obj_S [1, N, 1], the score being the root of their
product; bbox_S [1, N, 4], centre from the cell and log sides; kps_S [1, N, 10], five points from
the cell; all in strides.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from pipeline.errors import PipelineError
from pipeline.images import read_file

STRIDES = (8, 16, 32)
SIDE = 640  # of the input, where the file leaves it open
# What YuNet finds has 10 to 300 pixels: a face that fills the picture is found in half its size.
PARTS = (1.0, 0.5)
SCORE = 0.6  # at least, as in the zoo's own class
OVERLAP = 0.3  # of two boxes, intersection over union, above which the better one stays
MOST = 5000  # boxes, the best ones, that are compared so
_LOG = 10  # of a box's side in strides, at most: more is no face, and would overflow
_HEADS = {"cls": 1, "obj": 1, "bbox": 4, "kps": 10}  # numbers in each row
_OUTPUTS = [f"{head}_{stride}" for head in _HEADS for stride in STRIDES]


class Face(NamedTuple):
    """A face in pixels of the picture; its points as in `pipeline.inputs.alignment`."""

    box: np.ndarray  # [4]: left, top, width, height
    points: np.ndarray  # [5, 2]
    score: float


@dataclass(frozen=True)
class Detector:
    """A loaded detector."""

    session: Any  # of onnxruntime
    name: str  # of its file
    sha256: str  # of its file
    width: int  # of its input
    height: int


def open_detector(path: Path) -> Detector:
    """Load YuNet.

    Raises PipelineError where onnxruntime is not installed, or the file is missing or not YuNet.
    """
    try:
        import onnxruntime
    except ModuleNotFoundError:
        told = "a face detector takes onnxruntime: pip install 'diffstyle360[perceptual]'"
        raise PipelineError(f"{path}: {told}") from None
    data = read_file(path, str(path))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # pictures are read on several threads, beside the stylizing
    options.log_severity_level = 4  # what goes wrong is raised
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's own exceptions share no other base
        raise PipelineError(f"{path}: not a readable ONNX file ({_line(error)})") from None
    inputs = session.get_inputs()
    shape = inputs[0].shape if len(inputs) == 1 else []
    height, width = (s if isinstance(s, int) else SIDE for s in (shape or (1, 3, 0, 0))[-2:])
    there = {output.name for output in session.get_outputs()}
    fits = len(shape) == 4 and shape[1] == 3 and not (height % STRIDES[-1] or width % STRIDES[-1])
    if not fits or not there.issuperset(_OUTPUTS):
        raise PipelineError(
            f"{path}: not YuNet of 2023 or later: that takes one image [1, 3, H, W], whole times "
            "32 pixels, and gives cls, obj, bbox and kps at the strides 8, 16 and 32"
        )
    detector = Detector(session, path.name, hashlib.sha256(data).hexdigest(), width, height)
    try:
        _find(detector, Image.new("RGB", (width, height)), 1.0)
    except Exception as error:  # as above; what it gives has other shapes
        raise PipelineError(f"{path}: fails on a blank image ({_line(error)})") from None
    return detector


def find_faces(detector: Detector, picture: Image.Image) -> list[Face]:
    """The faces in an RGB picture, the best first. One larger than the input is shrunk to it."""
    fit = min(detector.width / picture.width, detector.height / picture.height)
    for scale in dict.fromkeys(min(1.0, part * fit) for part in PARTS):
        if faces := _find(detector, picture, scale):
            return faces
    return []


def choose_face(faces: list[Face], width: int, height: int) -> Face:
    """The largest, where those away from the centre count for less: at a corner for nothing."""

    def weigh(face: Face) -> float:
        left, top, wide, high = face.box
        away = np.hypot(left + wide / 2 - width / 2, top + high / 2 - height / 2)
        return float(wide * high * max(0.0, 1 - away / (np.hypot(width, height) / 2)))

    return max(faces, key=weigh)


def _find(detector: Detector, picture: Image.Image, scale: float) -> list[Face]:
    """In the picture at this scale, in the upper left of a black input."""
    sides = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    small = picture.resize(sides, Image.Resampling.BICUBIC, reducing_gap=3.0)
    image = np.zeros((1, 3, detector.height, detector.width), np.float32)
    image[0, :, : sides[1], : sides[0]] = np.asarray(small)[..., ::-1].transpose(2, 0, 1)
    name = detector.session.get_inputs()[0].name
    given = detector.session.run(_OUTPUTS, {name: image})
    outputs = dict(zip(_OUTPUTS, given, strict=True))
    rows = np.concatenate([_decode(detector, outputs, stride) for stride in STRIDES])
    rows[:, 1:] *= np.tile(np.divide(picture.size, sides), 7)
    return [Face(row[1:5], row[5:].reshape(5, 2), float(row[0])) for row in _thin_out(rows)]


def _decode(detector: Detector, outputs: dict[str, np.ndarray], stride: int) -> np.ndarray:
    """Of the cells that show a face, score, box and points [M, 15], in pixels of the input."""
    columns, lines = detector.width // stride, detector.height // stride
    cls, obj, box, points = (
        outputs[f"{head}_{stride}"].reshape(columns * lines, numbers).astype(np.float64)
        for head, numbers in _HEADS.items()
    )
    score = np.sqrt(cls.clip(0, 1) * obj.clip(0, 1))[:, 0]
    found = np.flatnonzero(score >= SCORE)
    cell = np.stack([found % columns, found // columns], 1)  # [M, 2]: x, y
    sides = np.exp(box[found, 2:].clip(-_LOG, _LOG)) * stride
    corner = (cell + box[found, :2]) * stride - sides / 2
    places = (points[found].reshape(-1, 5, 2) + cell[:, None]) * stride
    rows = np.column_stack([score[found], corner, sides, places.reshape(-1, 10)])
    return rows[np.isfinite(rows).all(1)]


def _thin_out(rows: np.ndarray) -> list[np.ndarray]:
    """The rows of `_decode`, the best first, without those that overlap a better one."""
    rows = rows[np.argsort(-rows[:, 0], kind="stable")][:MOST]
    kept = []
    while len(rows):
        best, rows = rows[0], rows[1:]
        kept.append(best)
        rows = rows[_overlap(best[1:5], rows[:, 1:5]) <= OVERLAP]
    return kept


def _overlap(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Intersection over union of a box [4] with others [N, 4]."""
    low = np.maximum(box[:2], boxes[:, :2])
    high = np.minimum(box[:2] + box[2:], boxes[:, :2] + boxes[:, 2:])
    common = np.prod((high - low).clip(0), axis=1)
    return common / (box[2] * box[3] + boxes[:, 2] * boxes[:, 3] - common)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:120]
