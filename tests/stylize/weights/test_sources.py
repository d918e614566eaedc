"""Telling what is in a file or folder, and leaving out what is of no use."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from stylize.config import StylizerError
from stylize.weights.sources import read_source
from tests.stylize.weights import layouts
from tests.stylize.weights.layouts import SMALL


def save(path: Path, shapes: layouts.Shapes) -> Path:
    return layouts.save(path, layouts.number(shapes))


def test_control_model_means_what_it_holds(tmp_path: Path) -> None:
    """A ControlNet in its own file and in a whole checkpoint; DiffPortrait's reference net."""
    control = layouts.controlnet(SMALL)
    alone = read_source(save(tmp_path / "a.pth", layouts.prefixed("control_model.", control)))
    bare = read_source(save(tmp_path / "b.pth", control))
    assert [*alone.parts] == [*bare.parts] == ["camera"]
    assert alone.parts["camera"].tensors.keys() == bare.parts["camera"].tensors.keys()
    whole = layouts.stable_diffusion(SMALL) | layouts.prefixed("control_model.", control)
    assert set(read_source(save(tmp_path / "c.pth", whole)).parts) == {
        "unet", "vae", "text", "camera"
    }  # fmt: skip
    portrait = read_source(save(tmp_path / "d.th", layouts.back_view(SMALL)))
    assert set(portrait.parts) == {"unet", "vae", "text", "reference", "camera"}
    ends = layouts.prefixed("control_model.", layouts.unet(SMALL) | control)
    with_ends = read_source(save(tmp_path / "e.th", ends))
    # the head, the hint, zero convolutions and the middle's: never read from
    reference = with_ends.parts["reference"]
    assert not any("conv_out" in name or "controlnet" in name for name in reference.tensors)
    assert with_ends.ignored.total() == 4 + 8 + 8 + 2


def test_x_portraits_name_for_the_reference_net(tmp_path: Path) -> None:
    shapes = layouts.back_view(SMALL)
    renamed = {
        f"appearance_{key}" if key.startswith("control_model.") else key: shape
        for key, shape in shapes.items()
    }
    ours = read_source(save(tmp_path / "a.th", renamed)).parts["reference"]
    assert ours.tensors.keys() == read_source(
        save(tmp_path / "b.th", shapes)
    ).parts["reference"].tensors.keys()  # fmt: skip
    both = read_source(save(tmp_path / "c.th", shapes | renamed))
    assert both.unexpected  # one of the two, and which is not known


def test_averages_and_losses_are_left_out(tmp_path: Path) -> None:
    more = layouts.prefixed("model_ema.", {"diffusion_modelinput_blocks00weight": (3,)})
    more |= layouts.prefixed("first_stage_model.loss.", {"logvar": ()})
    path = save(tmp_path / "pruned.ckpt", layouts.stable_diffusion(SMALL) | more)
    source = read_source(path)
    assert source.ignored == {
        "of the noise schedule": 13, "running averages": 1, "training losses": 1
    }  # fmt: skip
    assert not source.unexpected
    assert not any(part.unexpected for part in source.parts.values())


def test_both_encodings_of_a_motion_block_must_agree(tmp_path: Path) -> None:
    tensors = layouts.fill(layouts.animatediff(SMALL))
    source = read_source(layouts.save(tmp_path / "mm.ckpt", tensors))
    motion = source.parts["motion"]
    blocks = sum(name.endswith(".pos_embed.pe") for name in motion.tensors)
    assert motion.keys == len(tensors) == len(motion.tensors) + blocks
    key = next(key for key in tensors if "attention_blocks.1.pos_encoder" in key)
    tensors[key] = tensors[key] + 1
    with pytest.raises(StylizerError, match=r"mm.ckpt: .*: differs from another key for"):
        read_source(layouts.save(tmp_path / "mm.ckpt", tensors))


def test_animatediff_v2_is_named_as_unexpected(tmp_path: Path) -> None:
    shapes = layouts.animatediff(SMALL)
    shapes |= layouts.motion_module("mid_block.motion_modules.0", 64, 6)
    motion = read_source(save(tmp_path / "mm_v2.ckpt", shapes)).parts["motion"]
    assert len(motion.unexpected) == 28
    assert all(key.startswith("mid_block.") for key in motion.unexpected)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("conditioner.embedders.0.a", "x.ckpt: Stable Diffusion XL, which has other layers; 1.5"),
        ("cond_stage_model.model.a", "Stable Diffusion 2"),
        ("model.diffusion_model.joint_blocks.0.a", "Stable Diffusion 3"),
    ],
)
def test_relatives_are_named(key: str, message: str, tmp_path: Path) -> None:
    tensors = {key: torch.ones(1), "model.diffusion_model.a": torch.ones(1)}
    with pytest.raises(StylizerError, match=message):
        read_source(layouts.save(tmp_path / "x.ckpt", tensors))


def test_unknown_layouts_are_named_by_their_keys(tmp_path: Path) -> None:
    tensors = {f"blocks.{n}.weight": torch.ones(1) for n in range(7)}
    path = layouts.save(tmp_path / "x.pt", tensors)
    message = (
        r"x.pt: a layout that is not known: blocks.0.weight, blocks.1.weight, blocks.2.weight, "
        r"... \(7 in all\)"
    )
    with pytest.raises(StylizerError, match=message):
        read_source(path)


@pytest.fixture
def pipeline(brought: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(brought / "sd", tmp_path / "sd"))


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_folders_with_fp16_and_bin_files(pipeline: Path) -> None:
    expected = read_source(pipeline).parts
    weights = pipeline / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_name("diffusion_pytorch_model.fp16.safetensors"))
    text = pipeline / "text_encoder" / "model.safetensors"
    tensors = {f"text_model.{name}": t for name, t in expected["text"].tensors.items()}
    layouts.save(text.with_name("pytorch_model.bin"), tensors)
    text.unlink()
    found = read_source(pipeline).parts
    assert all(found[name].tensors.keys() == part.tensors.keys() for name, part in expected.items())


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("unet", {"attention_head_dim": [5, 10]}, r"attention_head_dim is \[5, 10\]; Stable"),
        ("unet", {"attention_head_dim": [8, 8]}, ""),
        ("vae", {"scaling_factor": 0.13025}, "scaling_factor is 0.13025; Stable Diffusion 1.5"),
        ("text_encoder", {"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ("text_encoder", {"num_attention_heads": 2}, "num_attention_heads is 2"),
        ("scheduler", {"prediction_type": "v_prediction"}, "prediction_type is 'v_prediction'"),
    ],
)
def test_folders_of_other_families_are_refused(
    file: str, changes: dict[str, object], message: str, pipeline: Path
) -> None:
    path = pipeline / file / "config.json"
    if file == "scheduler":
        path = pipeline / file / "scheduler_config.json"
        path.parent.mkdir()
        path.write_text("{}")
    edit(path, **changes)
    if not message:
        assert read_source(pipeline).parts
        return
    with pytest.raises(StylizerError, match=message):
        read_source(pipeline)


def test_incomplete_folders_are_named(pipeline: Path, tmp_path: Path) -> None:
    shutil.rmtree(pipeline / "vae")
    with pytest.raises(StylizerError, match="sd: a pipeline's folder without vae/"):
        read_source(pipeline)
    (pipeline / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(StylizerError, match=r"unet: no diffusion_pytorch_model.safetensors in it"):
        read_source(pipeline)
    (tmp_path / "empty").mkdir()
    with pytest.raises(StylizerError, match="neither a pipeline's folder nor a network's"):
        read_source(tmp_path / "empty")


def test_motion_adapters_with_a_middle_are_refused(brought: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(brought / "mm", tmp_path / "mm"))
    edit(folder / "config.json", use_motion_mid_block=True)
    with pytest.raises(StylizerError, match="use_motion_mid_block is True"):
        read_source(folder)
