"""What the networks keep for the backward pass, and what goes where."""

import dataclasses

import pytest
import torch
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D

from stylize.training import FinetuneSettings
from stylize.training.compute import frozen_in_half, place, recomputed

SETTINGS = FinetuneSettings(steps=1, gradient_checkpointing=True)
VIEWS = 3


def kept_bytes(module: torch.nn.Module, *inputs, **named) -> tuple[int, list[torch.Tensor]]:
    """What a forward pass keeps, and the gradients of its sum."""
    kept = 0

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = module(*inputs, **named)
    return kept, list(torch.autograd.grad(output.square().sum(), list(module.parameters())))


def test_motion_modules_keep_their_input_alone(make_model):
    model = make_model()
    modules = [m for m in model.denoiser.modules() if isinstance(m, AnimateDiffTransformer3D)]
    assert modules
    for module in modules:
        x = torch.randn(VIEWS, module.in_channels, 4, 4, requires_grad=True)
        plain, expected = kept_bytes(module, x, num_frames=VIEWS)
        with recomputed(model, SETTINGS):
            kept, found = kept_bytes(module, x, num_frames=VIEWS)
            with torch.no_grad():
                assert not module(x, num_frames=VIEWS).requires_grad
        assert kept < plain / 10
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
        assert kept_bytes(module, x, num_frames=VIEWS)[0] == plain


@pytest.mark.parametrize("precision", ["exact", "fast"])
def test_the_back_view_generator_stays_where_and_as_it_is(make_model, tiny, precision):
    model = make_model(dataclasses.replace(tiny, back_view=True)).double()
    settings = dataclasses.replace(SETTINGS, precision=precision)
    trained = model.trainable_parameters("style")
    with frozen_in_half(model, trained, settings):
        types = {name: tensor.dtype for name, tensor in model.own_state().items()}
    place(model, trained, settings, torch.device("meta"))
    for name, tensor in model.own_state().items():
        unused = name.startswith("back_")
        assert tensor.is_meta != unused, name
        assert not unused or tensor.dtype == types[name] == torch.float64, name
        assert unused or precision == "fast" or tensor.dtype == torch.float32, name
