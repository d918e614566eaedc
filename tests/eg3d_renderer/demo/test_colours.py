import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eg3d_renderer.demo import colours

LIKE = torch.zeros(1)


def test_paint_is_shown_as_written() -> None:
    shown = colours.show(colours.paint("#ff8000", LIKE)).view(3)
    torch.testing.assert_close(shown, torch.tensor([1.0, 128 / 255, 0.0]))


def test_ramp_goes_from_its_first_to_its_last_colour() -> None:
    codes = ("#000000", "#804020", "#ffffff")
    for at, code in ((-1, codes[0]), (-3, codes[0]), (0, codes[1]), (1, codes[2]), (9, codes[2])):
        torch.testing.assert_close(colours.ramp(codes, at, LIKE), colours.paint(code, LIKE))


@given(hue=st.floats(-2, 2), saturation=st.floats(-1, 2), value=st.floats(-1, 2))
def test_hues_are_cyclic_and_colours_in_range(hue: float, saturation: float, value: float) -> None:
    rgb = colours.hsv(hue, saturation, value, LIKE)
    assert ((rgb >= 0) & (rgb <= 1)).all()
    again = colours.hsv(hue + 1, saturation, value, LIKE)
    torch.testing.assert_close(rgb, again, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("low", "high"), [(0.2, 0.7), (0.7, 0.2)])
def test_ease_is_a_monotone_step_either_way(low: float, high: float) -> None:
    v = torch.linspace(-1, 2, 301)
    step = colours.ease(v, low, high)
    assert step[0] == (low > high)
    assert step[-1] == (low < high)
    change = step.diff() if low < high else -step.diff()
    assert (change >= -1e-6).all()


def test_spot_fades_to_nothing_at_its_radius() -> None:
    x = torch.linspace(0, 1, 101)
    zero = torch.zeros_like(x)
    spot = colours.spot(x, zero, zero, (0, 0, 0), 0.5)
    assert spot[0] == 1
    assert (spot.diff() <= 0).all()
    assert (spot[51:] == 0).all()


def test_noise_is_smooth_and_centred() -> None:
    rng = torch.Generator().manual_seed(0)
    x, y, z = 4 * torch.rand(3, 20_000, generator=rng) - 2
    value = colours.noise(x, y, z, 5.0)
    assert value.abs().max() < 1.7
    assert value.mean().abs() < 0.1
    assert value.std() > 0.25
    assert (colours.noise(x + 1e-3, y, z, 5.0) - value).abs().max() < 0.06
    assert not torch.equal(colours.noise(x, y, z, 5.0, seed=1.0), value)
