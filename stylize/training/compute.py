"""How the networks compute while they are trained: in what precision, and what they keep."""

from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import nn

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
    "fast" does not train and multiplies with stays as it was stored."""
    model.to(device)
    half = _frozen_matrices(model, trained) if settings.precision == "fast" else {}
    for tensor in (*model.parameters(), *model.buffers()):
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


def _frozen_matrices(model: DiffStyle360, trained: Collection[str]) -> dict[nn.Parameter, str]:
    """Weights of linear layers and convolutions, and their biases, that are not trained."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {
        parameter: names[parameter]
        for prefix, net in model.named_children()
        for module in net.modules()
        if prefix != "vae" and isinstance(module, nn.Linear | nn.Conv2d)
        for parameter in module.parameters(recurse=False)
        if names[parameter] not in trained
    }


@contextmanager
def recomputed(model: DiffStyle360, settings: FinetuneSettings) -> Iterator[None]:
    """Within, activations are computed again in the backward pass, where the settings say so."""
    nets = (model.denoiser, model.reference_net, model.style_encoder, model.camera_net)
    if not settings.gradient_checkpointing:
        yield
        return
    for net in nets:
        net.enable_gradient_checkpointing()
    try:
        yield
    finally:
        for net in nets:
            net.disable_gradient_checkpointing()
