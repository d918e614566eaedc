import pytest
import torch

from stylize.training import FinetuneSettings
from stylize.training.draws import draw_training, fix_validation

NONE = dict.fromkeys(("drop_style", "drop_content", "drop_both", "drop_back"), 0.0)
SHAPE = (2, 3, 4, 4)


def draw(numbers, **changes):
    return draw_training(numbers, SHAPE, FinetuneSettings(steps=1, **changes), 1000)


def test_a_clips_draws_depend_on_seed_and_number_alone():
    torch.manual_seed(1)
    together = draw([3, 4, 5])
    torch.manual_seed(2)
    alone = draw([4])
    for name, drawn in vars(together).items():
        assert torch.equal(drawn[1:2], getattr(alone, name)), name
    assert not torch.equal(draw([4], seed=1).noise, alone.noise)
    assert not torch.equal(draw([6]).noise, alone.noise)


@pytest.mark.parametrize(
    ("drops", "kept"),
    [
        ({"drop_style": 1.0}, (True, True, False)),
        ({"drop_content": 1.0}, (False, False, True)),
        ({"drop_both": 1.0}, (False, False, False)),
        ({"drop_back": 1.0}, (True, False, True)),
        ({}, (True, True, True)),
    ],
)
def test_dropout_leaves_parts_out(drops, kept):
    draws = draw(range(9), **(NONE | drops))
    for part, keeps in zip((draws.content, draws.back, draws.style), kept, strict=True):
        assert part.tolist() == [keeps] * 9


def test_what_is_trained_alone_is_never_left_out():
    draws = draw(range(200), train="style", drop_both=0.5)
    assert draws.style.all()
    assert not draws.content.all()


def test_a_clip_without_presence_has_no_style():
    draws = draw(range(3), **NONE)
    assert draws.presence.tolist() == [1, 1, 1]
    assert draws.with_presence(None) is draws
    given = draws.with_presence(torch.tensor([0, 0.5, 1]))
    assert given.style.tolist() == [False, True, True]
    assert given.presence.tolist() == [0, 0.5, 1]
    dropped = draw(range(3), **(NONE | {"drop_style": 1.0}))
    assert not dropped.with_presence(torch.ones(3)).style.any()


def test_dropout_has_its_probabilities():
    draws = draw(range(4000))
    without_content = ~draws.content
    assert without_content.float().mean() == pytest.approx(0.10, abs=0.02)
    assert (without_content & ~draws.style).float().mean() == pytest.approx(0.05, abs=0.015)
    assert (draws.content & ~draws.style).float().mean() == pytest.approx(0.10, abs=0.02)
    assert (~draws.back[draws.content]).float().mean() == pytest.approx(0.10, abs=0.02)
    assert draws.t.float().mean() == pytest.approx(500, abs=20)


def test_validation_spreads_its_timesteps_and_leaves_nothing_out():
    settings = FinetuneSettings(steps=1, validation_clips=4)
    draws = fix_validation(range(4), SHAPE, settings, 1000)
    assert draws.t.tolist() == [125, 375, 625, 875]
    assert (draws.content & draws.back & draws.style).all()
    assert torch.equal(fix_validation([2], SHAPE, settings, 1000).noise, draws.noise[2:3])
    assert not torch.equal(draw([2]).noise, draws.noise[2:3])
