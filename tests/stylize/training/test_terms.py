import dataclasses

import pytest
import torch

from stylize.config import StylizerError
from stylize.training import FinetuneSettings
from stylize.training.losses import encode_batch
from stylize.training.terms import TERMS, Guess

SETTINGS = FinetuneSettings(steps=1)
LOW = torch.tensor([0, 1])


@pytest.fixture(scope="module")
def batch(make_clips):
    return make_clips(range(2))


def measure(name, model, guess, batch, settings=SETTINGS):
    latents = encode_batch(model, batch, settings)
    return TERMS[name](Guess(model, settings, batch, latents, LOW, guess))


def test_an_error_that_all_views_share_is_consistent(model, batch):
    """All cameras of these clips are one, so that a pixel lies on the same one of each view."""
    clean = encode_batch(model, batch, SETTINGS).target
    shared = clean + 0.1 * torch.randn(2, 1, *clean.shape[2:])
    assert measure("view_consistency", model, shared, batch).max() < 1e-8
    apart = clean.clone()
    apart[1, 1] += 0.1
    values = measure("view_consistency", model, apart, batch)
    assert values[0] == 0
    assert values[1] == pytest.approx(0.01, rel=1e-3)


def test_the_background_and_what_is_hidden_do_not_count(model, batch):
    clean = encode_batch(model, batch, SETTINGS).target
    noisy = clean + torch.randn_like(clean)
    empty = dataclasses.replace(batch, depth=torch.full_like(batch.depth, 3.0))
    assert not measure("view_consistency", model, noisy, empty).any()
    one_view = dataclasses.replace(batch, target=batch.target[:, :1], depth=batch.depth[:, :1])
    assert not measure("view_consistency", model, noisy[:, :1], one_view).any()


def test_view_consistency_takes_depth(model, batch):
    clean = encode_batch(model, batch, SETTINGS).target
    with pytest.raises(StylizerError, match="no depth and cameras"):
        measure("view_consistency", model, clean, dataclasses.replace(batch, depth=None))


def test_identity_tells_identities_apart(model, batch):
    clean = encode_batch(model, batch, SETTINGS).target
    nearly = clean + 0.05 * torch.randn_like(clean)
    near, far = (measure("identity", model, guess, batch) for guess in (nearly, clean.flip(0)))
    assert (near < far / 2).all()


@pytest.mark.parametrize("recomputing", [False, True])
def test_identity_never_trains_the_net_it_measures_with(make_model, batch, recomputing):
    model = make_model()
    settings = dataclasses.replace(SETTINGS, gradient_checkpointing=recomputing)
    for parameter in model.reference_net.parameters():
        parameter.requires_grad_(True)
    if recomputing:
        model.reference_net.enable_gradient_checkpointing()
    clean = encode_batch(model, batch, SETTINGS).target
    guess = (clean * 0.9).requires_grad_()
    measure("identity", model, guess, batch, settings).sum().backward()
    assert guess.grad.any()
    parameters = list(model.reference_net.parameters())
    assert all(p.grad is None and p.requires_grad for p in parameters)
    assert model.reference_net.is_gradient_checkpointing == recomputing


def test_style_takes_its_palette_from_the_style_image(model, batch):
    clean = encode_batch(model, batch, SETTINGS).target
    as_style = batch.style.unsqueeze(1).expand_as(batch.target)
    styled = encode_batch(model, dataclasses.replace(batch, target=as_style), SETTINGS).target
    dim = measure("style", model, 0.2 * clean, batch)
    assert (measure("style", model, styled, batch) < 0.3 * dim).all()


def test_style_images_may_be_latents(model, batch):
    clean = encode_batch(model, batch, SETTINGS).target
    style = encode_batch(model, batch, SETTINGS).style
    encoded = dataclasses.replace(batch, style=style, encoded=frozenset({"style"}))
    torch.testing.assert_close(
        measure("style", model, clean, encoded), measure("style", model, clean, batch)
    )


def test_detail_is_what_no_region_shares(model, batch):
    def measure_error(error):
        wrong = dataclasses.replace(batch, target=batch.target + error)
        guess = encode_batch(model, wrong, SETTINGS).target
        return measure("detail", model, guess, batch)

    assert measure_error(torch.tensor(0.3)).max() < 1e-8
    rows, columns = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
    checks = 0.1 * (-1.0) ** (rows + columns)
    apart = checks * torch.tensor([1.0, 2.0]).view(2, 1, 1, 1, 1)
    values = measure_error(apart)
    assert 0.007 < values[0] < 0.013
    torch.testing.assert_close(values[1], 4 * values[0])
