import numpy as np

from pipeline.stages import pictures
from pipeline.stages.report import TURNED_FRAMES


def test_thumbnails_are_small_and_small_ones_stay() -> None:
    large = np.full((2, 512, 512, 3), 7, np.uint8)
    assert pictures.thumbnails(large).shape == (2, pictures.SHOWN, pictures.SHOWN, 3)
    assert (pictures.thumbnails(large) == 7).all()
    small = np.zeros((2, 64, 64, 3), np.uint8)
    assert pictures.thumbnails(small) is small


def test_a_turntable_of_the_largest_pictures_fits_a_webp() -> None:
    rows, frames = 2, TURNED_FRAMES
    strip = np.zeros((rows * frames * pictures.SHOWN, pictures.SHOWN, 3), np.uint8)
    assert pictures.encode_webp(strip)[8:12] == b"WEBP"


def test_spread_is_even() -> None:
    assert pictures.spread(16, 8) == list(range(0, 16, 2))
    assert pictures.spread(3, 8) == [0, 1, 2]
