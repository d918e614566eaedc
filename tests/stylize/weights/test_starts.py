import dataclasses
from typing import Any

import pytest
import torch

from stylize.attention import INITIAL_BIAS
from stylize.config import StylizerConfig
from stylize.model import DiffStyle360
from stylize.weights import start_style


@pytest.mark.parametrize("kind", [{}, {"style_encoder": "lora", "lora_rank": 2}], ids=str)
def test_the_style_starts_anew_from_the_networks_there_are(
    tiny: StylizerConfig, kind: dict[str, Any]
) -> None:
    model = DiffStyle360(dataclasses.replace(tiny, **kind))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    before = {name: tensor.clone() for name, tensor in model.own_state().items()}
    start_style(model)
    after = model.own_state()
    style = model.trainable_parameters("style")
    assert any(name.startswith("style_encoder.") for name in style)
    for name, tensor in after.items():
        if name not in style:
            assert torch.equal(tensor, before[name]), name
        elif ".processor.to_" in name:
            assert torch.equal(tensor, before[name.replace(".processor", "")])
        elif name.endswith(".gate.bias"):
            assert (tensor == INITIAL_BIAS).all()
        elif name.startswith("style_encoder.") and ".lora_" not in name:
            assert torch.equal(tensor, before[name.replace("style_encoder.", "reference_net.", 1)])
