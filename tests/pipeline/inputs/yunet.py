"""Small ONNX networks with the names and shapes of YuNet's: one that sees red, one of noise."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

STRIDES = (8, 16, 32)
HEADS = {"cls": 1, "obj": 1, "bbox": 4, "kps": 10}
# Of what is found, from the corner of its cell and in strides: eyes, nose tip, mouth corners.
POINTS = np.array([[-0.5, 0.0], [0.5, 0.0], [0.0, 0.6], [-0.4, 1.0], [0.4, 1.0]])
SIDES = 4.0, 5.0  # of its box, in strides; the box's centre is the cell's corner


def write_seer(path: Path, side: int | str = 640, stride: int = 32, *, blind: bool = False) -> Path:
    """Finds a face where a cell of one stride is red; its score is how red (of 255).

    One that is `blind` to what is large takes from that the mean of the cell and those around it.
    """
    constants = {
        "starts": np.array([2]), "ends": np.array([3]), "axes": np.array([1]),
        "rows": np.array([1, -1, 1]),
        "bbox": np.array([[[0, 0, *np.log(SIDES)]]], np.float32),
        "kps": POINTS.reshape(1, 1, 10).astype(np.float32),
        "nothing": np.array(0, np.float32),
        "blind": np.array(blind, np.float32),
        **{f"part{s}": np.array((s == stride) / 255, np.float32) for s in STRIDES},
    }  # fmt: skip
    nodes = [helper.make_node("Slice", ["input", "starts", "ends", "axes"], ["red"])]
    for s in STRIDES:
        nodes += [
            helper.make_node(
                "AveragePool", ["red"], [f"pool{s}"], kernel_shape=[s, s], strides=[s, s]
            ),
            helper.make_node(
                "AveragePool",
                [f"pool{s}"],
                [f"around{s}"],
                kernel_shape=[3, 3],
                pads=[1, 1, 1, 1],
                count_include_pad=1,
            ),
            helper.make_node("Mul", [f"around{s}", "blind"], [f"less{s}"]),
            helper.make_node("Sub", [f"pool{s}", f"less{s}"], [f"left{s}"]),
            helper.make_node("Mul", [f"left{s}", f"part{s}"], [f"red{s}"]),
            helper.make_node("Reshape", [f"red{s}", "rows"], [f"cls_{s}"]),
            helper.make_node("Identity", [f"cls_{s}"], [f"obj_{s}"]),
            helper.make_node("Mul", [f"cls_{s}", "nothing"], [f"zero{s}"]),
            helper.make_node("Add", [f"zero{s}", "bbox"], [f"bbox_{s}"]),
            helper.make_node("Add", [f"zero{s}", "kps"], [f"kps_{s}"]),
        ]
    return _save(path, nodes, constants, side)


def write_noise(path: Path, seed: int, spread: float) -> Path:
    """Random weights: any scores, boxes and points, also those that overflow."""
    rng = np.random.default_rng(seed)
    constants: dict[str, np.ndarray] = {}
    nodes = []
    for s in STRIDES:
        for head, numbers in HEADS.items():
            name = f"{head}_{s}"
            weight = rng.normal(0, spread / s, (numbers, 3, s, s)).astype(np.float32)
            constants |= {f"w{name}": weight, f"shape{name}": np.array([1, numbers, -1])}
            nodes += [
                helper.make_node("Conv", ["input", f"w{name}"], [f"c{name}"], strides=[s, s]),
                helper.make_node("Reshape", [f"c{name}", f"shape{name}"], [f"r{name}"]),
                helper.make_node("Transpose", [f"r{name}"], [name], perm=[0, 2, 1]),
            ]
    return _save(path, nodes, constants, 640)


def _save(
    path: Path, nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], side: int | str
) -> Path:
    floats = TensorProto.FLOAT
    sides = [side, side] if isinstance(side, int) else ["height", "width"]
    outputs = [
        helper.make_tensor_value_info(
            f"{head}_{s}", floats, [1, (side // s) ** 2 if isinstance(side, int) else None, numbers]
        )
        for head, numbers in HEADS.items()
        for s in STRIDES
    ]
    graph = helper.make_graph(
        nodes,
        "yunet",
        [helper.make_tensor_value_info("input", floats, [1, 3, *sides])],
        outputs,
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
    return path
