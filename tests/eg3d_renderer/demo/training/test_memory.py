import os
import resource

import pytest
import torch
from torch.utils.data import Dataset

from eg3d_renderer.demo.training.memory import Plan, remember
from eg3d_renderer.demo.training.truth import Rays

PLAN = Plan(batch=6, fresh=2, memory=8, looks=3, seed=1)


class Numbers(Dataset):
    """Heads whose style is their number, with five rays each."""

    def __len__(self) -> int:
        return 20

    def __getitem__(self, number: int) -> tuple[int, torch.Tensor, Rays]:
        if number >= 20:
            raise IndexError(number)
        ray = torch.arange(5.0)
        return number, torch.zeros(4), Rays(ray[:, None], ray[:, None], ray[:, None], ray, ray)


def steps(done: int, workers: int = 0) -> list[list[tuple[int, list[float]]]]:
    return [
        [(look.style, look.rays.depths.tolist()) for look in looks]
        for looks in remember(Numbers(), PLAN, done, workers)
    ]


def test_each_step_has_fresh_heads_and_remembered_ones() -> None:
    made = steps(0)
    assert len(made) == 10
    for step, looks in enumerate(made):
        numbers = [number for number, _ in looks]
        assert numbers[:2] == [2 * step, 2 * step + 1]
        assert len(numbers) == len(set(numbers)) == min(6, 2 + 2 * step)
        assert all(2 * step - 8 <= number < 2 * step for number in numbers[2:])


def test_a_head_is_seen_by_some_of_its_rays() -> None:
    for looks in steps(0):
        for _, rays in looks:
            assert len(rays) == len(set(rays)) == 3


@pytest.mark.parametrize("done", [1, 3, 7, 10])
def test_going_on_sees_what_would_have_been_seen(done: int) -> None:
    assert steps(done) == steps(0)[done:]


def test_what_workers_send_leaves_no_open_files() -> None:
    """A training remembers more heads than a process may have files open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = len(os.listdir("/dev/fd")) + 20
    plan = PLAN._replace(memory=20)  # all twenty heads
    resource.setrlimit(resource.RLIMIT_NOFILE, (few, hard))
    try:
        assert len(list(remember(Numbers(), plan, 0, workers=1))) == 10
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
