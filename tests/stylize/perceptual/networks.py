"""Small networks with random weights, laid out as the published ones."""

from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import helper

WIDTH, LAYERS, PATCH, SIDE = 128, 2, 8, 3  # of the CLIP tower
VGG_WIDTHS = (4, 6, 8, 8, 8)
VGG_INDEXES = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))  # torchvision's features


def openai_tower() -> dict[str, torch.Tensor]:
    """A CLIP image tower in OpenAI's layout."""
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * 0.1

    state = {
        "class_embedding": draw(WIDTH),
        "positional_embedding": draw(SIDE**2 + 1, WIDTH),
        "conv1.weight": draw(WIDTH, 3, PATCH, PATCH),
        **{f"{n}.{k}": draw(WIDTH) + 1 for n in ("ln_pre", "ln_post") for k in ("weight", "bias")},
    }
    shapes = {
        "attn.in_proj_weight": (3 * WIDTH, WIDTH),
        "attn.in_proj_bias": (3 * WIDTH,),
        "attn.out_proj.weight": (WIDTH, WIDTH),
        "attn.out_proj.bias": (WIDTH,),
        "ln_1.weight": (WIDTH,),
        "ln_1.bias": (WIDTH,),
        "ln_2.weight": (WIDTH,),
        "ln_2.bias": (WIDTH,),
        "mlp.c_fc.weight": (4 * WIDTH, WIDTH),
        "mlp.c_fc.bias": (4 * WIDTH,),
        "mlp.c_proj.weight": (WIDTH, 4 * WIDTH),
        "mlp.c_proj.bias": (WIDTH,),
    }
    for layer in range(LAYERS):
        for name, shape in shapes.items():
            state[f"transformer.resblocks.{layer}.{name}"] = draw(*shape)
    return state


def csd_state() -> dict[str, torch.Tensor]:
    """A CSD checkpoint's tensors, as trained on several GPUs."""
    projection = torch.randn(WIDTH, 16, generator=torch.Generator().manual_seed(2))
    state = {f"module.backbone.{name}": tensor for name, tensor in openai_tower().items()}
    return state | {"module.last_layer_style": projection, "module.last_layer_content": -projection}


def lpips_states() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """A narrow VGG16 and its heads."""
    generator = torch.Generator().manual_seed(3)
    network, heads, channels = {"classifier.0.weight": torch.zeros(2, 2)}, {}, 3
    for number, (indexes, width) in enumerate(zip(VGG_INDEXES, VGG_WIDTHS, strict=True)):
        for index in indexes:
            weight = torch.randn(width, channels, 3, 3, generator=generator) / channels**0.5 / 2
            network[f"features.{index}.weight"] = weight
            network[f"features.{index}.bias"] = torch.randn(width, generator=generator) * 0.1
            channels = width
        heads[f"lin{number}.model.1.weight"] = torch.rand(1, width, 1, 1, generator=generator)
    return network, heads


def write_lpips(folder: Path) -> tuple[Path, Path]:
    paths = folder / "vgg16.pth", folder / "vgg.pth"
    for state, path in zip(lpips_states(), paths, strict=True):
        torch.save(state, path)
    return paths


def write_onnx(path: Path, size: int | str = 8, batch: int | str = "N", channels: int = 3) -> Path:
    """An ONNX network: the mean of each quarter of the image and colour, times a matrix."""
    matrix = np.random.default_rng(0).normal(size=(4 * channels, 6)).astype(np.float32)
    half = [size // 2 if isinstance(size, int) else 4] * 2
    nodes = [
        helper.make_node("AveragePool", ["image"], ["pooled"], kernel_shape=half, strides=half),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "matrix"], ["features"]),
    ]
    floats = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "quarters",
        [helper.make_tensor_value_info("image", floats, [batch, channels, size, size])],
        [helper.make_tensor_value_info("features", floats, [batch, 6])],
        [onnx.numpy_helper.from_array(matrix, "matrix")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
    return path
