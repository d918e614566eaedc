"""Writes tiny checkpoints the way upstream does: with pickle, from modules under upstream's names.

The classes exist only while a file is written; what reads it afterwards has none of them.
"""

import pickle
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn

PLANE_AXES = [
    [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
    [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0]],
    [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]],
]
RENDERING_KWARGS = {
    "ray_start": 2.25,
    "box_warp": 1,
    "white_back": False,
    "avg_camera_pivot": [0, 0, 0.2],
    "superresolution_module": "training.superresolution.SuperresolutionHybrid8XDC",
}
INIT_KWARGS = {
    "z_dim": 512,
    "mapping_kwargs": {"num_layers": 2},
    "conv_clamp": None,
    "fused_modconv_default": "inference_only",
}


class Named(nn.Module):
    """Holds the parameters, buffers and modules it is given by name."""

    def __init__(self, **children: Any) -> None:
        super().__init__()
        for name, child in children.items():
            if isinstance(child, torch.Tensor) and not isinstance(child, nn.Parameter):
                self.register_buffer(name, child)
            else:
                setattr(self, name, child)


def reconstruct(meta: dict[str, Any]) -> None:
    raise AssertionError("a test reads this file with the real pickle")


@contextmanager
def upstream(module_src: str = "") -> Iterator[SimpleNamespace]:
    """Upstream's classes, registered in sys.modules until the block ends."""

    class EasyDict(dict):
        pass

    class Alias(EasyDict):
        pass

    class Persistent(Named):
        def __reduce__(self) -> tuple:
            meta = {
                "type": "class",
                "version": 6,
                "module_src": module_src,
                "class_name": type(self).__name__,
                "state": self.__dict__,
            }
            return reconstruct, (meta,), None

    places: dict[str, tuple[str, Any]] = {
        "easydict": ("dnnlib.util.EasyDict", EasyDict),
        "alias": ("dnnlib.EasyDict", Alias),
        "reconstruct": ("torch_utils.persistence._reconstruct_persistent_obj", reconstruct),
        "persistent": ("training.networks.Layer", Persistent),
    }
    for name in (
        "training.triplane.OSGDecoder",
        "training.volumetric_rendering.ray_marcher.MipRayMarcher2",
        "training.volumetric_rendering.ray_sampler.RaySampler",
        "training.volumetric_rendering.renderer.ImportanceRenderer",
    ):
        kind = name.rpartition(".")[2]
        places[kind] = (name, type(kind, (Named,), {}))
    modules = {"training", "training.volumetric_rendering", "torch_utils", "dnnlib"}
    modules |= {name.rpartition(".")[0] for name, _ in places.values()}
    try:
        sys.modules.update({name: ModuleType(name) for name in modules})
        for name, thing in places.values():
            module, _, thing.__qualname__ = name.rpartition(".")
            thing.__module__, thing.__name__ = module, thing.__qualname__
            setattr(sys.modules[module], thing.__name__, thing)
        yield SimpleNamespace(**{key: thing for key, (_, thing) in places.items()})
    finally:
        for name in modules:
            sys.modules.pop(name, None)


def make_generator(names: SimpleNamespace, family: str = "eg3d") -> nn.Module:
    """A generator of `family` in all but size, with every odd tensor a file can hold."""
    rng = torch.Generator().manual_seed(0)

    def parameter(*shape: int) -> nn.Parameter:
        return nn.Parameter(torch.randn(shape, generator=rng))

    shared = torch.randn(6, 4, generator=rng)
    block = names.persistent(
        const=parameter(8, 4, 4),
        bias=None,
        noise_strength=parameter(),
        transposed=nn.Parameter(shared.t()),
        part=nn.Parameter(shared[2:5, 1:3]),
        row=shared[1],
        resample_filter=torch.ones(4, 4) / 16,
        f16=torch.randn(5, generator=rng).half(),
        bf16=torch.randn(3, generator=rng).bfloat16(),
        f64=torch.randn(2, 1, generator=rng).double(),
        steps=torch.tensor(2**40 + 7),
        i16=torch.arange(-2, 2, dtype=torch.int16),
        mask=torch.tensor([True, False]),
        nothing=torch.empty(0, 3),
    )
    block.register_buffer("scratch", torch.zeros(2), persistent=False)
    renderer = names.ImportanceRenderer(ray_marcher=names.MipRayMarcher2())
    renderer.plane_axes = torch.tensor(PLANE_AXES)
    net = nn.Sequential(names.persistent(weight=parameter(4, 3)), nn.Softplus(), nn.Softplus())
    children: dict[str, Any] = {
        "dataset_label_std": torch.rand(25, generator=rng),
        "renderer": renderer,
        "ray_sampler": names.RaySampler(),
        "backbone": names.persistent(synthesis=names.persistent(b4=block)),
        "decoder": names.OSGDecoder(net=net),
    }
    if family != "eg3d":
        children["bcg_synthesis"] = names.persistent(b4=names.persistent(const=parameter(2, 4, 4)))
    if family == "spherehead":
        children["ConvA"] = nn.Sequential(names.persistent(weight=parameter(2, 3, 1, 1)))
    generator = names.persistent(**children)
    rendering = names.easydict(RENDERING_KWARGS, depth_resolution=np.int64(48))
    generator._init_args = ()
    generator._init_kwargs = names.alias(
        INIT_KWARGS,
        img_resolution=np.float32(512.5),
        rendering_kwargs=names.easydict(rendering, ray_start=0.0),
    )
    generator.rendering_kwargs = rendering
    generator.neural_rendering_resolution = 64
    return generator


def write_official(
    path: Path,
    family: str = "eg3d",
    protocol: int = 4,
    module_src: str = "",
    edit: Callable[[Any], object] = lambda generator: None,
    **entries: Any,
) -> dict[str, torch.Tensor]:
    """Writes a checkpoint and returns the state dict its G_ema has before `edit` changes it.

    `entries` join the networks in the pickled dict, or take their place.
    """
    with upstream(module_src) as names:
        generator = make_generator(names, family)
        state = {name: tensor.clone() for name, tensor in generator.state_dict().items()}
        edit(generator)
        content = {
            "training_set_kwargs": names.easydict(class_name="training.dataset.Images"),
            "G": make_generator(names, family),
            "D": names.persistent(weight=nn.Parameter(torch.full((2,), torch.nan))),
            "G_ema": generator,
            "augment_pipe": None,
            **entries,
        }
        path.write_bytes(pickle.dumps(content, protocol))
    return state


def write_generator(
    path: Path,
    spec: dict[str, Any],
    state: dict[str, torch.Tensor],
    plane_axes: list | None = None,
    protocol: int = 4,
) -> None:
    """Writes a checkpoint of real layout: the settings of `spec`, and tensors by their names."""
    with upstream() as names:
        tree: dict[str, Any] = {}
        for key, tensor in state.items():
            *parents, last = key.split(".")
            branch = tree
            for parent in parents:
                branch = branch.setdefault(parent, {})
            branch[last] = nn.Parameter(tensor) if last in ("weight", "bias", "const") else tensor

        def grow(branch: dict[str, Any]) -> nn.Module:
            module = names.persistent()
            for name, child in branch.items():
                if isinstance(child, nn.Parameter):
                    module.register_parameter(name, child)
                elif isinstance(child, torch.Tensor):
                    module.register_buffer(name, child)
                else:
                    module.add_module(name, grow(child))
            return module

        generator = grow(tree)
        renderer = names.ImportanceRenderer(ray_marcher=names.MipRayMarcher2())
        if plane_axes is not None:
            renderer.plane_axes = torch.tensor(plane_axes)
        generator.renderer = renderer
        generator._init_args = ()
        generator._init_kwargs = names.easydict(spec["init_kwargs"])
        generator.rendering_kwargs = names.easydict(spec["init_kwargs"]["rendering_kwargs"])
        generator.neural_rendering_resolution = spec["neural_rendering_resolution"]
        path.write_bytes(pickle.dumps({"G_ema": generator}, protocol))


class Calls:
    """Pickled as a call of `function`, which a real unpickler would make."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.recipe = function, args

    def __reduce__(self) -> tuple:
        return self.recipe
