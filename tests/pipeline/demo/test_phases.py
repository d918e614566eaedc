import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from pipeline.demo import card, phases, softening
from pipeline.folders import RunFolder, open_run
from stylize import DiffStyle360, StylizerConfig
from tests.conftest import write_tiny
from tests.pipeline.conftest import make_columns

STEPS = {"base": 2, "styles": 3, "dial": 2, "whole": 2, "face": 4}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[RunFolder]:
    """A tiny run through all phases, the first three at 16 px. Do not change it."""
    base = tmp_path_factory.mktemp("phases")
    config = StylizerConfig.from_json((tiny_model / "config.json").read_text())
    short = {name: phase | {"steps": STEPS[name]} for name, phase in phases.PHASES.items() if phase}
    for phase in ("base", "styles", "dial"):
        short[phase] |= {"resolution": 16}
    finetune = {
        "steps": STEPS["face"],
        "frontal": 1.0,
        "losses": {"detail": 2.0, "below": 1.0},
        "batch": 2,
        "views": 2,
        "styles": ["statue"],
    }
    changes = {"finetune": finetune, "stylize.model": str(tiny_model)}
    folder = open_run(write_tiny(base / "run.yaml", changes), base / "runs")
    make_columns(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stylize.demo", lambda: config)
        patch.setattr(card, "AVERAGED", 2)
        patch.setattr(phases, "PHASES", short | {"face": {}})
        patch.setattr(card, "PHASES", phases.PHASES)
        phases.train_phases(folder)
        yield folder


def test_each_phase_starts_from_what_the_one_before_it_made(trained: RunFolder) -> None:
    state = {
        phase: DiffStyle360.from_pretrained(trained.path / phase / "stylizer").state_dict()
        for phase in STEPS
    }
    for name, tensor in state["base"].items():  # its style begins where the reference net is
        if name.startswith("style_encoder."):
            reference = name.replace("style_encoder.", "reference_net.", 1)
            assert torch.equal(tensor, state["base"][reference])
    for phase, given in (
        ("styles", "base/handed-on"),
        ("dial", "styles/handed-on"),
        ("whole", "dial/stylizer"),
        ("face", "whole/stylizer"),
    ):
        begun = DiffStyle360.from_pretrained(trained.path / given).state_dict()
        assert any(not torch.equal(state[phase][n], begun[n]) for n in begun)
        for name in begun:  # a few steps move gates by far less than what is handed on did
            if name.endswith(".processor.gate.bias"):
                assert torch.allclose(state[phase][name], begun[name], atol=0.5), phase
    config = DiffStyle360.from_pretrained(trained.path / "face" / "stylizer").config
    assert config.image_size == 32


def test_gates_are_opened_after_the_base_and_attention_softened_after_the_styles(
    trained: RunFolder,
) -> None:
    for phase, bias in (
        ("base", lambda _: phases.OPEN),
        ("styles", lambda trained: trained - softening.LOWERED),
    ):
        own, given = (
            DiffStyle360.from_pretrained(trained.path / phase / name)
            for name in ("stylizer", "handed-on")
        )
        assert given.config == own.config
        changed = own.state_dict()
        for name, tensor in given.state_dict().items():
            if name.endswith(".processor.gate.bias"):
                assert torch.equal(tensor, torch.zeros_like(tensor) + bias(changed[name]))
            elif phase == "base" or not name.endswith(".attn1.to_q.weight"):
                assert torch.equal(tensor, changed[name]), name


def test_what_is_trained_is_not_trained_again(trained: RunFolder) -> None:
    weights = trained.path / "face" / "stylizer" / "model.safetensors"
    softened = trained.path / "styles" / "handed-on" / "model.safetensors"
    before = weights.stat(), softened.stat()
    assert phases.train_phases(trained) == weights.parent
    assert (weights.stat(), softened.stat()) == before


def test_phases_use_the_manifests_shares_but_for_the_base(trained: RunFolder) -> None:
    base, whole, face = (phases.settings(trained, phase) for phase in ("base", "whole", "face"))
    assert base.plain == 1
    assert base.recolour == base.faint == 0
    assert base.hints.camera > whole.hints.camera  # else there would be nothing to learn
    assert face == trained.run.finetune
    assert face.frontal == 1 > whole.frontal
    assert face.losses.detail == 2 > whole.losses.detail


def test_the_card_tells_data_course_and_figures(
    trained: RunFolder, made_run: RunFolder, tmp_path: Path
) -> None:
    export = tmp_path / "export"
    model = DiffStyle360.from_pretrained(trained.path / "face" / "stylizer", torch.float16)
    model.save_pretrained(export)
    swapped = {"cases": [dict.fromkeys(("style_follows", "instance_follows"), None)]}
    swapped["cases"][0] |= {"instance_follows": 0.75, "identity_follows": 1.0, "leak": 0.25}
    made_run.swaps_path.write_text(json.dumps(swapped))
    try:
        card.write_card(trained, made_run, export)
    finally:
        made_run.swaps_path.unlink()
    rows = list(csv.DictReader(io.StringIO((export / card.CURVES).read_text())))
    assert [(row["phase"], int(row["steps"])) for row in rows] == [
        ("base", 2), ("styles", 2), ("styles", 3), ("dial", 2), ("whole", 2), ("face", 2),
        ("face", 4),
    ]  # fmt: skip
    text = (export / card.CARD).read_text()
    for told in (
        "base: 2 steps of 6 x 2 views of 16 px",
        "face: 4 steps of 2 x 2 views of 32 px",
        "3 heads of the demo generator from 4 sides, plain and in 1 styles",
        "0% to 20% of the clips are recoloured",
        "| **statue: diffstyle360** |",
        "of another instance of the style in 75%",
        "moves it 0.25 times",
        f"]({card.SHEET})",
    ):
        assert told in " ".join(text.split()), told
    assert (export / card.SHEET).is_file()
