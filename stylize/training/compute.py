"""How the networks compute while they are trained: in what precision, and what they keep."""

from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D
from torch import nn
from torch.utils.checkpoint import checkpoint

from stylize.model import DiffStyle360
from stylize.training.settings import FinetuneSettings


def computing(settings: FinetuneSettings, device: torch.device) -> AbstractContextManager:
    """The networks' arithmetic: "exact" is float32, "fast" multiplies in bfloat16."""
    if settings.precision == "exact":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def place(
    model: DiffStyle360, trained: Collection[str], settings: FinetuneSettings, device: torch.device
) -> None:
    """Bring the model to the device. What is trained is float32, and so is all of "exact"; what
    "fast" does not train and multiplies with stays as it was stored. The back-view generator has no
    part in training: it stays where and as it is."""
    nets = _nets_used(model)
    for net in nets.values():
        net.to(device)
    model.prompt = model.prompt.to(device)
    half = _frozen_matrices(model, trained) if settings.precision == "fast" else {}
    used = [tensor for net in nets.values() for tensor in (*net.parameters(), *net.buffers())]
    for tensor in (*used, model.prompt):
        if tensor not in half and tensor.is_floating_point():
            tensor.data = tensor.data.float()


@contextmanager
def frozen_in_half(
    model: DiffStyle360, trained: Collection[str], settings: FinetuneSettings
) -> Iterator[None]:
    """Within, "fast" holds the weights that are multiplied with and not trained in bfloat16; after,
    they are what they were. Norms and the autoencoder are left alone."""
    if settings.precision == "exact":
        yield
        return
    frozen = _frozen_matrices(model, trained)
    kept = {p: p.data.cpu() for p in frozen if p.dtype != torch.bfloat16}  # out of a GPU's memory
    for parameter in kept:
        parameter.data = parameter.data.bfloat16()
    try:
        yield
    finally:
        for parameter, data in kept.items():
            parameter.data = data.to(parameter.device)


def _nets_used(model: DiffStyle360) -> dict[str, nn.Module]:
    """All but the back-view generator's."""
    return {n: net for n, net in model.named_children() if not n.startswith("back_")}


def _frozen_matrices(model: DiffStyle360, trained: Collection[str]) -> dict[nn.Parameter, str]:
    """Weights of linear layers and convolutions, and their biases, that are not trained."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {
        parameter: names[parameter]
        for prefix, net in _nets_used(model).items()
        for module in net.modules()
        if prefix != "vae" and isinstance(module, nn.Linear | nn.Conv2d)
        for parameter in module.parameters(recurse=False)
        if names[parameter] not in trained
    }


@contextmanager
def recomputed(model: DiffStyle360, settings: FinetuneSettings) -> Iterator[None]:
    """Within, activations are computed again in the backward pass, where the settings say so.

    diffusers does so for residual blocks and spatial transformers, but not for motion modules.
    """
    nets = (model.denoiser, model.reference_net, model.style_encoder, model.camera_net)
    motion = [m for m in model.denoiser.modules() if isinstance(m, AnimateDiffTransformer3D)]
    if not settings.gradient_checkpointing:
        yield
        return
    for net in nets:
        net.enable_gradient_checkpointing()
    for module in motion:
        module.forward = _computed_again(module.forward)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for module in motion:
            del module.forward  # the class's own is seen again
        for net in nets:
            net.disable_gradient_checkpointing()


def _computed_again(forward: Callable[..., Any]) -> Callable[..., Any]:
    def forward_again(*inputs: Any, **named: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*inputs, **named)
        return checkpoint(forward, *inputs, use_reentrant=False, **named)

    return forward_again
