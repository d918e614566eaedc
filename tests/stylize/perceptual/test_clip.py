import argparse

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPModel

from stylize.config import StylizerError
from stylize.perceptual import load_clip, load_csd
from stylize.perceptual.clip import MEAN, STD
from tests.stylize.perceptual.networks import csd_state, openai_tower


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    """A whole CLIP, its text tower too, as transformers saves it."""
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    config = CLIPConfig(
        text_config=sizes | {"num_attention_heads": 2, "vocab_size": 20},
        vision_config=sizes | {"num_attention_heads": 2, "image_size": 24, "patch_size": 8},
        projection_dim=8,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = CLIPModel(config)
    folder = tmp_path_factory.mktemp("clip")
    model.save_pretrained(folder)
    return folder


def test_clip_gives_the_models_own_embedding(clip_folder, images):
    model = CLIPModel.from_pretrained(clip_folder).eval()
    embedded = load_clip(clip_folder)(images)
    small = F.interpolate(images, (24, 24), mode="bicubic", antialias=True).clamp(-1, 1)
    pixels = ((small + 1) / 2 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    with torch.no_grad():
        expected = model.get_image_features(pixel_values=pixels)
    expected = getattr(expected, "pooler_output", expected)
    torch.testing.assert_close(embedded, F.normalize(expected, dim=-1))


def test_folders_that_are_none_are_named(clip_folder, tmp_path):
    with pytest.raises(StylizerError, match=r"config\.json: cannot read"):
        load_clip(tmp_path)
    (tmp_path / "config.json").write_bytes((clip_folder / "config.json").read_bytes())
    with pytest.raises(StylizerError, match=r"pytorch_model\.bin: no such file"):
        load_clip(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"garbage")
    with pytest.raises(StylizerError, match=r"model\.safetensors: damaged"):
        load_clip(tmp_path)
    state = load_file(clip_folder / "model.safetensors")
    del state["vision_model.post_layernorm.bias"]
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(StylizerError, match=r"missing: vision_model\.post_layernorm\.bias"):
        load_clip(tmp_path)
    (tmp_path / "config.json").write_text('{"hidden_size": "wide"}')
    with pytest.raises(StylizerError, match="no CLIP image tower"):
        load_clip(tmp_path)


def openai_forward(tower: dict[str, torch.Tensor], pixels: torch.Tensor) -> torch.Tensor:
    """A CLIP image tower, restated plainly; its heads are 64 wide."""

    def norm(x, name):
        return F.layer_norm(x, x.shape[-1:], tower[f"{name}.weight"], tower[f"{name}.bias"])

    x = F.conv2d(pixels, tower["conv1.weight"], stride=tower["conv1.weight"].shape[-1])
    x = x.flatten(2).transpose(1, 2)
    x = torch.cat([tower["class_embedding"].expand(len(x), 1, -1), x], 1)
    x = norm(x + tower["positional_embedding"], "ln_pre")
    layer = 0
    while (name := f"transformer.resblocks.{layer}") + ".ln_1.weight" in tower:
        h = norm(x, f"{name}.ln_1")
        h = F.linear(h, tower[f"{name}.attn.in_proj_weight"], tower[f"{name}.attn.in_proj_bias"])
        q, k, v = (part.unflatten(-1, (-1, 64)).transpose(1, 2) for part in h.chunk(3, -1))
        attended = ((q @ k.mT / 8).softmax(-1) @ v).transpose(1, 2).flatten(2)
        out = f"{name}.attn.out_proj"
        x = x + F.linear(attended, tower[f"{out}.weight"], tower[f"{out}.bias"])
        h = norm(x, f"{name}.ln_2")
        h = F.linear(h, tower[f"{name}.mlp.c_fc.weight"], tower[f"{name}.mlp.c_fc.bias"])
        h = h * torch.sigmoid(1.702 * h)
        last = f"{name}.mlp.c_proj"
        x = x + F.linear(h, tower[f"{last}.weight"], tower[f"{last}.bias"])
        layer += 1
    return norm(x[:, 0], "ln_post")


def test_csd_is_the_tower_and_its_style_layer(images, tmp_path):
    state = csd_state()
    kept = {"model_state_dict": state, "epoch": 3, "args": argparse.Namespace(lr=0.1)}
    torch.save(kept, tmp_path / "csd.pth")
    embedded = load_csd(tmp_path / "csd.pth")(images)
    small = F.interpolate(images, (24, 24), mode="bicubic", antialias=True).clamp(-1, 1)
    pixels = ((small + 1) / 2 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    expected = openai_forward(openai_tower(), pixels) @ state["module.last_layer_style"]
    torch.testing.assert_close(embedded, F.normalize(expected, dim=-1), atol=1e-5, rtol=1e-4)


def test_other_checkpoints_are_refused(tmp_path):
    path = tmp_path / "csd.pth"
    with pytest.raises(StylizerError, match="no such file"):
        load_csd(path)
    path.write_bytes(b"garbage")
    with pytest.raises(StylizerError, match=r"csd\.pth"):
        load_csd(path)
    torch.save({"weight": torch.zeros(3)}, path)
    with pytest.raises(StylizerError, match=r"no tensor backbone\."):
        load_csd(path)
    state = {f"backbone.{name}": tensor for name, tensor in openai_tower().items()}
    torch.save(state, path)
    with pytest.raises(StylizerError, match="not CSD"):
        load_csd(path)
    state["last_layer_style"] = torch.zeros(128, 16)
    del state["backbone.ln_post.bias"]
    torch.save(state, path)
    with pytest.raises(StylizerError, match=r"missing: .*post_layernorm\.bias"):
        load_csd(path)
    state["backbone.ln_post.bias"] = torch.full((128,), torch.nan)
    torch.save(state, path)
    with pytest.raises(StylizerError, match=r"ln_post\.bias is not finite"):
        load_csd(path)
