import dataclasses
import math

import pytest

from stylize.config import StylizerError
from stylize.training import FinetuneSettings
from stylize.training.settings import is_new, parameter_groups, rate_factor

SETTINGS = FinetuneSettings(steps=100, learning_rate=1e-3, warmup_steps=10)


def test_the_rate_warms_up_and_falls_to_zero():
    factors = [rate_factor(SETTINGS, step) for step in range(100)]
    assert factors[0] < 0.11
    assert max(factors) > 0.95
    assert factors[-1] < 0.01


@pytest.mark.parametrize("encoder", ["copy", "lora"])
def test_new_parts_learn_at_one_rate_and_inherited_ones_at_another(make_model, tiny, encoder):
    lora = {"style_encoder": "lora", "lora_rank": 2} if encoder == "lora" else {}
    model = make_model(dataclasses.replace(tiny, **lora))
    trained = model.trainable_parameters("style")
    new, inherited = parameter_groups(trained, SETTINGS)
    assert (new["rate"], inherited["rate"]) == (1e-3, 1e-4)
    assert len(new["params"]) + len(inherited["params"]) == len(trained)
    other = dataclasses.replace(SETTINGS, inherited_rate=5e-4)
    assert parameter_groups(trained, other)[1]["rate"] == 5e-4
    site = "denoiser.down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor"
    assert is_new(f"{site}.gate.bias")
    assert is_new(f"{site}.appearance.modulation.weight")
    assert not is_new(f"{site}.to_k.weight")
    assert not is_new("style_encoder.conv_in.weight")
    assert all(is_new(n) == (".lora_" in n) for n in trained if n.startswith("style_encoder."))


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 0},
        {"checkpoints_kept": 0},
        {"accumulate": 0},
        {"sample_every": 0},
        {"drop_style": 0.95},
        {"train": "everything"},
        {"precision": "half"},
        {"identity": -1.0},
        {"terms_below": 1.5},
        {"drop_back": 1.5},
        {"drop_back": math.nan},
        {"drop_content": -0.1},
        {"learning_rate": 0.0},
        {"learning_rate": math.nan},
        {"inherited_rate": 0.0},
        {"ema_decay": 1.0},
        {"ema_decay": -0.1},
        {"clip_norm": 0.0},
        {"warmup_steps": -1},
        {"weight_decay": -0.1},
    ],
)
def test_impossible_settings_are_refused(change):
    [name] = change
    with pytest.raises(StylizerError, match=f"finetune settings: .*({name}|add up)") as caught:
        dataclasses.replace(SETTINGS, **change)
    assert "\n" not in str(caught.value)
