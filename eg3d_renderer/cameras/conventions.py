"""Cameras as other programs write them: OpenGL, Blender, NeRF's transforms.json.

The package text has a table of the conventions. Changing axes only moves numbers and turns signs,
so it is exact, and so is the way back.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eg3d_renderer.cameras.poses import label, split, validate
from eg3d_renderer.errors import RendererError

PERSPECTIVES = ("OPENCV", "PERSPECTIVE", "PINHOLE", "SIMPLE_PINHOLE")  # camera_model
DISTORTIONS = ("k1", "k2", "k3", "k4", "p1", "p2")
FOCALS = ("camera_angle_x", "fl_x", "fl_y")
LENS = ("camera_model", *FOCALS, "cx", "cy", "w", "h", *DISTORTIONS)


def to_opengl(cam2world: Tensor) -> Tensor:
    """OpenCV camera axes (y down, z forward) to OpenGL's (y up, z back); the world stays.

    cam2world [..., 4, 4] -> the same shape and dtype.
    """
    return cam2world * cam2world.new_tensor([1, -1, -1, 1])


def from_opengl(cam2world: Tensor) -> Tensor:
    """OpenGL camera axes to OpenCV's, [..., 4, 4]: turning y and z round undoes itself."""
    return to_opengl(cam2world)


def to_blender(cam2world: Tensor) -> Tensor:
    """A label's cam2world [..., 4, 4] as the `matrix_world` of a Blender camera.

    The world is turned from y up to z up, the face from +z to -y; the camera has OpenGL's axes.
    """
    x, y, z, w = to_opengl(cam2world).unbind(-2)
    return torch.stack([x, -z, y, w], dim=-2)


def from_blender(matrix_world: Tensor) -> Tensor:
    """The `matrix_world` of a Blender camera, [..., 4, 4], as a label's cam2world."""
    x, y, z, w = matrix_world.unbind(-2)
    return from_opengl(torch.stack([x, z, -y, w], dim=-2))


def to_transforms(labels: Tensor, names: Sequence[str], resolution: int) -> dict[str, Any]:
    """Labels [V, 25] as the content of a NeRF transforms.json, ready for `json.dump`.

    Frame i is the image file names[i], `resolution` pixels wide and high. Camera axes are OpenGL's
    and the world is Blender's (z up, face to -y), as in NeRF's own data sets and nerfstudio;
    lengths stay in world units. The lens (camera_angle_x in radians; fl_x, fl_y, cx, cy, w, h in
    pixels) stands at the top where all views share it, else in every frame.

    Raises RendererError for labels that are no cameras, another number of names, and a skewed lens,
    which the format has no field for.
    """
    validate(labels, "to_transforms")
    if len(names) != len(labels):
        raise RendererError(f"to_transforms: {len(names)} names for {len(labels)} views")
    if resolution < 1:
        raise RendererError(f"to_transforms: resolution is {resolution}; give the images' pixels")
    cam2world, k = split(labels.detach().double().cpu())
    if (skewed := k[:, 0, 1] != 0).any():
        raise RendererError(
            f"to_transforms: view {int(skewed.nonzero()[0])} has a skewed lens, "
            "which transforms.json cannot express"
        )
    lenses = [_describe_lens(one, resolution) for one in k]
    shared = lenses[0] if all(lens == lenses[0] for lens in lenses) else {}
    frames = [
        {"file_path": name} | ({} if shared else lens) | {"transform_matrix": matrix.tolist()}
        for name, lens, matrix in zip(names, lenses, to_blender(cam2world), strict=True)
    ]
    return shared | {"frames": frames}


def from_transforms(source: str | Path | Mapping[str, Any]) -> Tensor:
    """The cameras of a NeRF transforms.json, a file or its content: labels [V, 25], frame by frame.

    Axes as in `to_transforms`. A frame's own lens goes before the one at the top; of the lens only
    camera_angle_x or fl_x must be there (pixels square, the principal point in the middle).

    Raises RendererError, one line with file and key, for what is missing or is no number, images
    that are not square, and lenses with distortion: a label can express neither.
    """
    if isinstance(source, Mapping):
        return transforms_labels(source, "transforms")
    return transforms_labels(read_json(source), str(source))


def transforms_labels(content: Any, where: str) -> Tensor:
    """`from_transforms` of content that came from `where`."""
    frames = content.get("frames") if isinstance(content, Mapping) else None
    if not isinstance(frames, list) or not frames:
        raise RendererError(f"{where}: frames: must be a list of one camera or more")
    made = []
    for index, frame in enumerate(frames):
        place = f"{where}: frames.{index}"
        if not isinstance(frame, Mapping):
            raise RendererError(f"{place}: must be an object with a transform_matrix")
        matrix = numbers(frame.get("transform_matrix"), (4, 4), f"{place}.transform_matrix")
        made.append(label(from_blender(matrix), _read_lens(frame, content, place)))
    labels = torch.stack(made).float()
    validate(labels, where)
    return labels


def read_json(path: str | Path) -> Any:
    """What a JSON file holds. Raises RendererError, one line, where it cannot be read."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise RendererError(f"{path}: cannot read it: {error.strerror}") from None
    except json.JSONDecodeError as error:
        raise RendererError(f"{path}: line {error.lineno}: not JSON: {error.msg}") from None
    except (ValueError, RecursionError):  # not text, an endless number, an endless nest
        raise RendererError(f"{path}: not a JSON file of cameras") from None


def numbers(value: Any, shape: tuple[int, ...], where: str) -> Tensor:
    """Nested lists as a float64 tensor of this shape. Raises RendererError where they are not."""
    try:
        tensor = torch.tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        tensor = None
    if tensor is None or tensor.shape != shape:
        wanted = f"{' x '.join(map(str, shape))} numbers" if shape else "a number"
        raise RendererError(f"{where}: {'missing; give' if value is None else 'must be'} {wanted}")
    return tensor


def _describe_lens(k: Tensor, resolution: int) -> dict[str, float]:
    fx, fy, cx, cy = (k[i, j].item() for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))
    return {
        "camera_angle_x": 2 * math.atan(0.5 / fx),
        "fl_x": fx * resolution,
        "fl_y": fy * resolution,
        "cx": cx * resolution,
        "cy": cy * resolution,
        "w": resolution,
        "h": resolution,
    }


def _read_lens(frame: Mapping[str, Any], content: Mapping[str, Any], where: str) -> Tensor:
    """Normalised intrinsics [3, 3]: the frame's own fields go before those at the top."""
    focal_of = frame if frame.keys() & {"fl_x", "camera_angle_x"} else content
    fields = {name: content[name] for name in LENS if name in content}
    fields |= {name: frame[name] for name in LENS if name in frame}
    fields = {n: v for n, v in fields.items() if n not in FOCALS or n in focal_of}
    if fields.pop("camera_model", "PINHOLE") not in PERSPECTIVES:
        raise RendererError(f"{where}: camera_model: only {', '.join(PERSPECTIVES)} can be read")
    given = {name: numbers(v, (), f"{where}.{name}").item() for name, v in fields.items()}
    if bent := [name for name in DISTORTIONS if given.get(name, 0) != 0]:
        raise RendererError(f"{where}.{bent[0]}: a label has no distortion; undistort the images")
    width = given.get("w", given.get("h", 1.0))
    if not given.get("h", width) == width > 0:
        raise RendererError(f"{where}: w and h differ: labels are of square images; crop them")
    if not given.keys() & {"w", "h"} and given.keys() & {"fl_x", "fl_y", "cx", "cy"}:
        raise RendererError(f"{where}.w: missing; without it a length in pixels says nothing")
    if "fl_x" in given:
        fx = given["fl_x"] / width
    elif 0 < given.get("camera_angle_x", 0) < math.pi:
        fx = 0.5 / math.tan(given["camera_angle_x"] / 2)
    else:
        raise RendererError(f"{where}: give fl_x in pixels, or camera_angle_x in radians")
    fy = given["fl_y"] / width if "fl_y" in given else fx
    cx, cy = (given.get(name, width / 2) / width for name in ("cx", "cy"))
    return torch.tensor([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], dtype=torch.float64)
