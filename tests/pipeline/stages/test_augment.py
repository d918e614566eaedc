import math

import numpy as np
import pytest
import torch

from pipeline.stages.augment import GAMMA, SATURATION, Palette, augment, draw_palette


class Fixed:
    """Draws that are given, in order: mirror, angle, part kept, shift."""

    def __init__(self, mirror: float, *uniform: object):
        self.mirror, self.uniform_draws = mirror, list(uniform)

    def random(self) -> float:
        return self.mirror

    def uniform(self, *limits: float) -> object:
        return self.uniform_draws.pop(0)


def picture(size: int = 16) -> torch.Tensor:
    return torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))


def draws(*values: object) -> np.random.Generator:
    return Fixed(*values)  # type: ignore[arg-type, return-value]


def test_no_change_is_no_change() -> None:
    nothing = augment(picture(), draws(0.9, 0.0, 1.0, np.zeros(2)))
    torch.testing.assert_close(nothing, picture())


def test_a_mirror_image() -> None:
    mirrored = augment(picture(), draws(0.1, 0.0, 1.0, np.zeros(2)))
    torch.testing.assert_close(mirrored, picture().flip(-1))


def test_a_turn_leaves_the_middle_where_it_is() -> None:
    image = torch.zeros(1, 3, 17, 17)
    image[..., 8, 8] = image[..., 2, 8] = 1
    turned = augment(image, draws(0.9, 10.0, 1.0, np.zeros(2)))
    torch.testing.assert_close(turned[..., 8, 8], image[..., 8, 8])
    assert turned[0, 0, 2].argmax() != 8


def test_a_crop_shows_a_part_and_its_border_is_the_nearest_pixel() -> None:
    ramp = torch.linspace(0, 1, 32).expand(1, 3, 32, 32)
    left = augment(ramp, draws(0.9, 0.0, 0.85, np.array([-1.0, 0.0])))
    assert left.min() == 0
    assert 0.8 < left.max() < 0.9


def test_the_same_draws_make_the_same_image_within_range() -> None:
    for seed in range(5):
        first, again = (augment(picture(), np.random.default_rng(seed)) for _ in range(2))
        assert torch.equal(first, again)
        assert first.min() >= 0
        assert first.max() <= 1


def test_the_colours_that_are_there_are_a_palette() -> None:
    images = 2 * picture() - 1
    torch.testing.assert_close(Palette(0.0, 1.0, 1.0).recolour(images), images)
    round_trip = Palette(2 * math.pi, 1.0, 1.0).recolour(images)
    torch.testing.assert_close(round_trip, images, atol=1e-5, rtol=0)


def test_a_third_of_a_turn_makes_red_green_and_green_blue() -> None:
    colours = torch.tensor([[1.0, -1, -1], [-1, 1, -1], [-1, -1, 1]])[:, :, None, None]
    turned = Palette(2 * math.pi / 3, 1.0, 1.0).recolour(colours)
    torch.testing.assert_close(turned, colours.roll(-1, 0), atol=1e-5, rtol=0)


@pytest.mark.parametrize("seed", range(5))
def test_greys_stay_grey_and_black_and_white_as_they_are(seed: int) -> None:
    palette = draw_palette(np.random.default_rng(seed))
    assert SATURATION[0] <= palette.saturation <= SATURATION[1]
    assert GAMMA[0] <= palette.gamma <= GAMMA[1]
    ramp = torch.linspace(-1, 1, 9).expand(1, 3, 1, 9)
    shown = palette.recolour(ramp)
    torch.testing.assert_close(shown, shown[:, :1].expand(-1, 3, -1, -1), atol=1e-5, rtol=0)
    torch.testing.assert_close(shown[..., [0, -1]], ramp[..., [0, -1]], atol=1e-5, rtol=0)
    assert (shown.diff() > 0).all()
