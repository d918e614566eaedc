import dataclasses

import pytest
import torch

import eg3d_renderer as er
from eg3d_renderer.demo.generator import ProceduralHeads
from eg3d_renderer.demo.hair import HAIRCUTS
from eg3d_renderer.demo.training import traits as module
from eg3d_renderer.demo.training.traits import derive, teach, traits
from eg3d_renderer.networks.mapping import Mapping, normalize_2nd_moment


def test_traits_are_the_properties_and_then_the_haircut() -> None:
    heads = ProceduralHeads()
    z = er.latents(range(40), 48)
    known = traits(z)
    assert known.isfinite().all()
    assert torch.equal(known[:, :48], heads.mapping(z)[:, 0])
    cuts = known[:, 48 : 48 + len(HAIRCUTS)]
    assert torch.equal(cuts.sum(1), torch.ones(40))
    for row, ws in zip(cuts, heads.mapping(z), strict=True):
        assert HAIRCUTS[int(row.argmax())] == heads.head(ws).haircut


@pytest.mark.parametrize(
    "change",
    [
        {"haircut": "bun"},
        {"hat": "brim"},
        {"hat": "beanie"},
        {"beard": 0.1},
        {"moustache": 0.045},
        {"glasses": 0.2},
        {"freckles": 0.3},
        {"hair_tone": -0.5},
        {"iris_hue": -0.5},
    ],
)
def test_kinds_are_told_apart(change: dict[str, float | str]) -> None:
    heads = ProceduralHeads()
    mean = dataclasses.replace(heads.head(torch.zeros(1, 48)), haircut="short", hat="none")
    assert derive(dataclasses.replace(mean, **change)) != derive(mean)


def test_the_hue_of_a_hat_counts_where_there_is_one() -> None:
    mean = ProceduralHeads().head(torch.zeros(1, 48))
    for hat, seen in (("none", False), ("brim", True)):
        two = [derive(dataclasses.replace(mean, hat=hat, hat_hue=hue)) for hue in (0.2, 0.7)]
        assert (two[0] != two[1]) == seen


@pytest.mark.parametrize("lr_multiplier", [1, 0.01])
def test_a_mapping_learns_them(lr_multiplier: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HEADS", 4000)
    torch.manual_seed(0)
    mapping = Mapping(48, 0, 128, 5, num_layers=4, lr_multiplier=lr_multiplier)
    known = teach(mapping, 400, seed=0)
    z = normalize_2nd_moment(torch.randn(1000, 48))
    truth = traits(z)
    truth = (truth - truth.mean(0)) / truth.std(0)
    with torch.no_grad():
        ws = mapping(z, z.new_zeros(1000, 0))
    assert ws.shape == (1000, 5, 128)
    error = (ws[:, 0, :known] - truth).square().mean(0)
    assert error[:48].mean() < 0.25  # the properties themselves
    assert error.mean() < 0.5
