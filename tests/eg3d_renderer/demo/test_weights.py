from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import eg3d_renderer as er
from eg3d_renderer.checkpoints import Checkpoint
from eg3d_renderer.demo import weights
from eg3d_renderer.demo.generator import ProceduralHeads
from eg3d_renderer.demo.styles import STYLES
from eg3d_renderer.demo.training import figures
from eg3d_renderer.demo.training.card import CARD, CURVES, SHEET
from eg3d_renderer.demo.weights import (
    HASHED,
    MANIFEST,
    read_style,
    save_styles,
    style_names,
)
from eg3d_renderer.generators import generator_of, load_demo
from tests.shipped import needs_demo_weights

OWN = "decoder.net.2.bias"
RENDERING = {
    "ray_start": 2.25,
    "ray_end": 3.2,
    "box_warp": 0.9,
    "depth_resolution": 6,
    "depth_resolution_importance": 6,
    "superresolution_module": "none",
    "triplane_size": 16,
    "white_back": True,
}
INIT = {
    "z_dim": 48,
    "c_dim": 0,
    "w_dim": 16,
    "img_resolution": 16,
    "channel_base": 128,
    "channel_max": 8,
    "mapping_kwargs": {"num_layers": 1},
}


@pytest.fixture(scope="module")
def checkpoints() -> dict[str, Checkpoint]:
    """Two styles of a tiny network, apart in one tensor."""
    torch.manual_seed(0)
    made = er.build_generator("panohead", rendering_kwargs=RENDERING, **INIT).state_dict()
    state = {name: tensor.half() for name, tensor in made.items()}
    styles = {"natural": state, "joker": state | {OWN: state[OWN] + 1}}
    return {s: Checkpoint("panohead", INIT, RENDERING, 16, None, t) for s, t in styles.items()}


@pytest.fixture
def folder(checkpoints: dict[str, Checkpoint], tmp_path: Path) -> Path:
    save_styles(checkpoints, tmp_path / "weights")
    return tmp_path / "weights"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_styles_are_read_as_they_were_saved(folder: Path, checkpoints: dict) -> None:
    assert style_names(folder) == ("natural", "joker")
    for style, checkpoint in checkpoints.items():
        read = read_style(style, folder)
        assert read.settings() == checkpoint.settings()
        assert read.state.keys() == checkpoint.state.keys()
        assert all(torch.equal(t, checkpoint.state[name]) for name, t in read.state.items())


def test_whoever_can_read_the_folder_can_read_its_files(folder: Path) -> None:
    modes = {path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert modes == {folder.stat().st_mode & 0o666}


def test_only_what_a_style_has_of_its_own_is_kept_for_it(folder: Path) -> None:
    assert list(load_file(folder / "styles.safetensors")) == [f"joker/{OWN}"]


def test_natural_is_a_checkpoint_like_any_other(folder: Path) -> None:
    plain, named = er.load_generator(folder), load_demo("natural", folder=folder)
    for name, tensor in plain.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, named.state_dict()[name])


def test_a_style_renders_as_its_checkpoint(folder: Path, checkpoints: dict) -> None:
    ws, cam = torch.randn(1, 6, 16), er.cameras.orbit(2)
    expected = generator_of(checkpoints["joker"]).synthesis(ws, cam, 8)
    found = load_demo("joker", folder=folder).synthesis(ws, cam, 8)
    assert all(torch.equal(views, found[name]) for name, views in expected.items())


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def alter(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [Path.unlink, truncate, alter])
@pytest.mark.parametrize("name", HASHED)
def test_damage_is_refused_in_one_line(
    folder: Path, name: str, damage: Callable[[Path], None]
) -> None:
    damage(folder / name)
    with pytest.raises(
        er.RendererError, match=rf"{name}: .*; train it by 'make demo-weights', or"
    ) as told:
        load_demo("joker", folder=folder)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"styles": ["natural"], "sha256": {}}', "[" * 9])
def test_damaged_manifest_is_refused(folder: Path, text: str) -> None:
    (folder / "manifest.json").write_text(text)
    with pytest.raises(er.RendererError, match=r"manifest\.json: damaged; train it"):
        style_names(folder)


def test_missing_weights_are_told(tmp_path: Path) -> None:
    with pytest.raises(er.RendererError, match=r"manifest\.json: No such file.*; train it"):
        style_names(tmp_path)


def test_a_folder_is_replaced_whole(folder: Path, checkpoints: dict) -> None:
    before = contents(folder)
    save_styles(checkpoints, folder)
    assert contents(folder) == before
    save_styles({"natural": checkpoints["joker"], "joker": checkpoints["natural"]}, folder)
    assert contents(folder).keys() == before.keys()
    assert torch.equal(read_style("joker", folder).state[OWN], checkpoints["natural"].state[OWN])
    assert list(folder.parent.iterdir()) == [folder]


def test_a_failure_leaves_what_was_there(
    folder: Path, checkpoints: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    before = contents(folder)
    monkeypatch.setattr(weights, "save_file", full)
    with pytest.raises(er.RendererError, match=r"cannot write .No space left on device"):
        save_styles(checkpoints, folder)
    assert contents(folder) == before
    assert list(folder.parent.iterdir()) == [folder]


def test_other_folders_are_left_alone(tmp_path: Path, checkpoints: dict) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(er.RendererError, match="exists, and holds no demo weights"):
        save_styles(checkpoints, tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "precious"


def test_styles_must_be_of_one_network(tmp_path: Path, checkpoints: dict) -> None:
    natural = checkpoints["natural"]
    with pytest.raises(er.RendererError, match="no style 'natural' among joker"):
        save_styles({"joker": natural}, tmp_path / "weights")
    wider = natural.state | {OWN: torch.zeros(34).half()}
    odd = Checkpoint("panohead", INIT, RENDERING, 16, None, wider)
    with pytest.raises(er.RendererError, match="style 'odd': not a checkpoint of the same network"):
        save_styles({"natural": natural, "odd": odd}, tmp_path / "weights")
    assert not (tmp_path / "weights").exists()


@needs_demo_weights
def test_the_package_ships_all_it_lists() -> None:
    styles = style_names()
    assert styles[0] == "natural"
    assert set(styles) <= set(STYLES)
    assert sum(path.stat().st_size for path in weights.FOLDER.iterdir()) < 16e6
    shipped = *HASHED, MANIFEST, CARD, CURVES, SHEET
    assert sorted(path.name for path in weights.FOLDER.iterdir()) == sorted(shipped)
    assert {t.dtype for t in read_style("natural").state.values()} == {torch.float16}


@needs_demo_weights
@pytest.mark.parametrize("style", ["natural", "joker"])
def test_the_shipped_heads_are_those_they_learned(style: str) -> None:
    seeds = range(figures.FIRST_SEED, figures.FIRST_SEED + 2)
    found = figures.measure(load_demo(style), ProceduralHeads(style), seeds, yaws=2)
    assert found["psnr"] > 22
    assert found["iou"] > 0.95
    assert found["depth_error"] < 0.005
    assert found["right_z"] > 8
