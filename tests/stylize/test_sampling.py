import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stylize.config import StylizerError
from stylize.sampling import circular_windows, guidance_passes, stylize_views


@given(st.integers(1, 40), st.integers(1, 16), st.integers(0, 100))
def test_windows_cover_the_circle_evenly(views, window, offset):
    windows = circular_windows(views, window, offset)
    covered = np.zeros(views, dtype=int)
    for indices in windows:
        assert len(indices) == min(views, window)
        assert ((indices[1:] - indices[:-1]) % views == 1 % views).all()  # consecutive, modulo V
        np.add.at(covered, indices, 1)
    assert covered.min() >= 1
    starts = sorted(int(w[0]) for w in windows)
    gaps = [(b - a) % views or views for a, b in zip(starts, [*starts[1:], starts[0]], strict=True)]
    assert max(gaps) - min(gaps) <= 1


def test_the_offset_turns_the_windows():
    plain, turned = circular_windows(16, 8, 0), circular_windows(16, 8, 5)
    assert all(np.array_equal((a + 5) % 16, b) for a, b in zip(plain, turned, strict=True))


@given(st.floats(0, 4), st.floats(0, 4))
def test_guidance_is_the_three_pass_formula(content, style):
    weights = guidance_passes(1.0, (content, style))
    eps = {"none": 0.3, "content": -1.1, "both": 2.7}
    formula = eps["none"] + content * (eps["content"] - eps["none"])
    formula += style * (eps["both"] - eps["content"])
    assert sum(w * eps[name] for name, w in weights.items()) == pytest.approx(formula)


def test_weights_of_one_cost_one_pass():
    assert guidance_passes(1.0, (1.0, 1.0)) == {"both": 1.0}
    assert guidance_passes(0.0, (1.0, 5.0)) == {"content": 1.0}
    assert guidance_passes(1.0, (3.0, 3.0)).keys() == {"none", "both"}


def sample(model, triplets, *, style=None, views=6, **options):
    hint = triplets.hint[0, :1].expand(views, -1, -1, -1)
    hint = hint * torch.linspace(0.5, 1, views).view(-1, 1, 1, 1)
    style = triplets.style[0] if style is None else style
    options = {"steps": 3, "seed": 1, **options}
    return stylize_views(model, triplets.front[0], triplets.back[0], hint, style, **options)


def test_views_come_back_as_images_and_repeat_exactly(model, triplets):
    first = sample(model, triplets)
    assert first.shape == (6, 3, 16, 16)
    assert first.abs().max() <= 1
    assert torch.equal(first, sample(model, triplets))
    assert not torch.equal(first, sample(model, triplets, seed=2))


def test_presence_zero_ignores_style_and_its_dials(model, triplets):
    base = sample(model, triplets, presence=0.0)
    for style, temperature in ((triplets.style[1], 1.0), (triplets.style[0], 0.5)):
        off = sample(
            model, triplets, style=style, presence=0.0, temperature=temperature,
            guidance=(1.0, 3.0),
        )  # fmt: skip
        assert torch.equal(off, base)
    assert not torch.equal(sample(model, triplets), base)


@pytest.mark.parametrize("options", [{"guidance": (2.0, 1.5)}, {"temperature": 0.7}, {"views": 3}])
def test_options_change_the_result_and_stay_finite(model, triplets, options):
    out = sample(model, triplets, **options)
    assert out.isfinite().all()
    assert out.shape[0] == options.get("views", 6)
    assert not torch.equal(out[:3], sample(model, triplets)[:3])


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"presence": 1.5}, "presence"),
        ({"temperature": 0.0}, "temperature"),
        ({"steps": 0}, "steps"),
        ({"style": torch.zeros(3, 8, 8)}, "image"),
    ],
)
def test_bad_options_are_named(model, triplets, options, named):
    with pytest.raises(StylizerError, match=named):
        sample(model, triplets, **options)
