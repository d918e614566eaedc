import dataclasses

import pytest
import torch

from stylize.back_view import generate_back
from stylize.config import StylizerError
from stylize.sampling import Sampling


@pytest.fixture(scope="module")
def generator(make_model, tiny):
    return make_model(dataclasses.replace(tiny, back_view=True, prompt_tokens=3))


def draw(generator, triplets, sampling=None, seeds=(1, 2), front=None, hint=None):
    front = triplets.front if front is None else front
    hint = triplets.hint[:, 0] if hint is None else hint
    return generate_back(generator, front, hint, sampling or Sampling(steps=3), seeds)


def test_a_back_follows_front_hint_seed_and_guidance(generator, triplets):
    first = draw(generator, triplets)
    assert first.shape == (2, 3, 16, 16)
    assert first.abs().max() <= 1
    assert torch.equal(first, draw(generator, triplets))
    others = {
        "front": draw(generator, triplets, front=-triplets.front),
        "hint": draw(generator, triplets, hint=-triplets.hint[:, 0]),
        "seeds": draw(generator, triplets, seeds=(3, 4)),
        "guidance": draw(generator, triplets, Sampling(steps=3, content_guidance=3.0)),
        "sampler": draw(generator, triplets, Sampling(steps=3, sampler="unipc")),
        "eta": draw(generator, triplets, Sampling(steps=3, eta=0.5)),
    }
    for name, other in others.items():
        assert other.isfinite().all(), name
        assert not torch.allclose(other, first, atol=1e-3), name


def test_company_changes_rounding_alone(generator, triplets):
    together = draw(generator, triplets)
    alone = generate_back(
        generator, triplets.front[1:], triplets.hint[1:, 0], Sampling(steps=3), [2]
    )
    torch.testing.assert_close(together[1:], alone, rtol=0, atol=1e-4)


def test_it_never_trains_and_its_parts_are_its_own(generator):
    assert not any(name.startswith("back_") for name in generator.trainable_parameters("all"))
    assert any(name.startswith("back_denoiser.") for name in generator.own_state())


def test_a_stylizer_without_one_says_so(model, triplets):
    with pytest.raises(StylizerError, match="no back-view generator; give the back view"):
        draw(model, triplets)
