import dataclasses
import json

import pytest

from stylize.config import StylizerConfig, StylizerError, demo, sd15


@pytest.mark.parametrize("preset", [demo, sd15])
def test_json_round_trip(preset):
    assert StylizerConfig.from_json(preset().to_json()) == preset()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"image_size": 63}, "image_size"),
        ({"image_size": 0}, "image_size"),
        ({"window": 2.5}, "window"),
        ({"channels": (60, 64)}, "channels"),
        ({"attention": (False, False)}, "attention"),
        ({"motion": (1,)}, "motion"),
        ({"hint_channels": (16,)}, "hint_channels"),
        ({"prediction": "x0"}, "prediction"),
        ({"prediction": "epsilon"}, "hint_residual"),
        ({"beta_start": 0.5}, "beta_start"),
        ({"vae_channels": (32, 32)}, "vae_channels"),
        ({"vae_channels": (32, 32, 32, 30)}, "vae_channels"),
        ({"timestep_spacing": "linspace"}, "timestep_spacing"),
        ({"chroma": 0.0}, "chroma"),
        ({"vae_channels": (32, 32, 32)}, "chroma"),
        ({"prompt_tokens": 0}, "prompt_tokens"),
        ({"positions": 3}, "positions"),
        ({"style_encoder": "full"}, "style_encoder"),
        ({"style_encoder": "lora"}, "lora_rank"),
        ({"lora_rank": 4}, "lora_rank"),
        ({"reference_timestep": "first"}, "reference_timestep"),
    ],
)
def test_impossible_values_are_named(change, named):
    with pytest.raises(StylizerError, match=named):
        dataclasses.replace(demo(), **change)


def test_bad_json_is_refused():
    with pytest.raises(StylizerError, match="not JSON"):
        StylizerConfig.from_json("{")
    values = json.loads(demo().to_json())
    with pytest.raises(StylizerError, match="extra"):
        StylizerConfig.from_json(json.dumps({**values, "extra": 1}))
    with pytest.raises(StylizerError, match="wrong type"):
        StylizerConfig.from_json(json.dumps({**values, "channels": "wide"}))
    del values["window"]
    with pytest.raises(StylizerError, match="window"):
        StylizerConfig.from_json(json.dumps(values))
