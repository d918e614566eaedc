"""The negative control: a stylizer trained on style images of the content's own person leaks.

Heads are four grey levels (who), a style's instance is a colour; the hint shows someone else, so
that the person has to come from the content's references, or, wrongly, from the style image.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from pipeline.judges import Pictures
from pipeline.stages.swaps import draw_case, measure_case, summarize
from stylize import (
    DiffStyle360,
    FinetuneSettings,
    Sampling,
    StylizerConfig,
    Triplets,
    finetune,
    stylize_views,
)

SIZE = 8
CONFIG = StylizerConfig(
    image_size=SIZE,
    latent_factor=4,
    channels=(32,),
    attention=(True,),
    motion=(1,),
    layers=1,
    heads=2,
    groups=4,
    cross_attention_dim=8,
    hint_channels=(8, 8, 16),
    window=2,
    prediction="sample",
    latent_scale=0.25,
    train_timesteps=100,
)
SETTINGS = FinetuneSettings(
    steps=100,
    batch=16,
    learning_rate=6e-3,
    inherited_rate=6e-3,
    checkpoint_every=100,
    drop_style=0.0,
)
CASES = 8


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def person(seed: int) -> torch.Tensor:
    """[1, S, S] in [0, 1]"""
    return draw(seed, 1, 2, 2).repeat_interleave(SIZE // 2, 1).repeat_interleave(SIZE // 2, 2)


def show(seed: int, colour: torch.Tensor) -> torch.Tensor:
    """Front and back, which is the front mirrored: [2, 3, S, S] in [-1, 1]"""
    image = 2 * person(seed) * colour - 1
    return torch.stack([image, image.flip(-1)])


def plain(seed: int) -> torch.Tensor:
    return show(seed, torch.ones(3, 1, 1))


def styled(seed: int, instance: int) -> torch.Tensor:
    return show(seed, draw(1_000_000 + instance, 3, 1, 1))


def clips(*, own_person: bool) -> Callable[[Sequence[int]], Triplets]:
    """Clips whose style images show another person, as they should, or the very target."""

    def clip(number: int) -> dict[str, torch.Tensor]:
        who, lender, hinted, instance = (1_000_000 * draw(number, 4)).long().tolist()
        front, back = plain(who)
        return {
            "front": front,
            "back": back,
            "style": styled(who if own_person else lender, instance)[0],
            "hint": plain(hinted),
            "target": styled(who, instance),
        }

    def batch(numbers: Sequence[int]) -> Triplets:
        drawn = [clip(number) for number in numbers]
        fields = {name: torch.stack([one[name] for one in drawn]) for name in drawn[0]}
        return Triplets(keys=[str(number) for number in numbers], **fields)

    return batch


def measure(model: DiffStyle360) -> dict[str, float]:
    def render(column: str, seed: int, instance: int) -> Pictures:
        return Pictures(styled(seed, instance), torch.ones(2, 1, SIZE, SIZE))

    def lend(column: str, seed: int, instance: int) -> torch.Tensor:
        return styled(seed, instance)[0]

    def paint(content: int, image: torch.Tensor) -> torch.Tensor:
        front, back = plain(content)
        return stylize_views(
            model, front[None], back[None], plain(360)[None], image, Sampling(steps=4), [0]
        )[0]

    cases = [draw_case(["style-a"], 360, number) for number in range(CASES)]
    return summarize([measure_case(case, render, lend, paint) for case in cases])


@pytest.mark.parametrize("own_person", [False, True])
def test_leakage_tells_a_stylizer_trained_on_the_targets_own_person(
    own_person: bool, tmp_path: Path
) -> None:
    model = finetune(DiffStyle360(CONFIG), clips(own_person=own_person), SETTINGS, tmp_path)
    leak = measure(model)["leak"]
    assert leak > 1 if own_person else leak < 1 / 3
