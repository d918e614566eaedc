"""The heads of each step: some fresh, most from before, each by a few of its rays."""

import os
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from eg3d_renderer.demo.training.truth import Rays


class Look(NamedTuple):
    """What a step sees of a head."""

    style: int
    z: Tensor  # [z_dim]
    rays: Rays


class Plan(NamedTuple):
    """A step sees `batch` heads by `looks` rays each; `fresh` of them for the first time, the
    others among the last `memory` heads. `memory` is a multiple of `fresh`."""

    batch: int
    fresh: int
    memory: int
    looks: int
    seed: int


def remember(heads: Dataset, plan: Plan, done: int, workers: int) -> Iterator[list[Look]]:
    """The looks of step `done` and of those after it, as long as there are fresh heads.

    They follow from the plan and the step's number: whoever goes on makes again what would be
    remembered.
    """
    first = max(0, done - plan.memory // plan.fresh)
    left = Subset(heads, range(first * plan.fresh, len(heads)))  # type: ignore[arg-type]
    loader = DataLoader(
        left,
        plan.fresh,
        num_workers=workers,
        collate_fn=list,
        drop_last=True,
        worker_init_fn=_step_back,
        # a fork of a process that has threads may wait for a lock that none of its own will free
        multiprocessing_context="forkserver" if workers else None,
    )
    memory: deque[Look] = deque(maxlen=plan.memory)
    for step, fresh in enumerate(loader, start=first):
        if step >= done:
            draw = np.random.default_rng([plan.seed, 1, step])
            many = min(plan.batch - plan.fresh, len(memory))
            known = [memory[i] for i in draw.permutation(len(memory))[:many]]
            yield [glance(look, plan.looks, draw) for look in (*map(_own, fresh), *known)]
        memory.extend(map(_own, fresh))


def _step_back(worker: int) -> None:
    """Leave the processor to the process that learns, which waits for nothing else."""
    os.nice(19)


def _own(head: tuple[int, Tensor, Rays]) -> Look:
    """In memory of its own: what a worker sends holds a file descriptor a tensor."""
    style, z, rays = head
    return Look(style, z.clone(), Rays(*(t.clone() for t in rays)))


def glance(look: Look, count: int, draw: np.random.Generator) -> Look:
    """The head by `count` of its rays, or by all where there are fewer."""
    n = len(look.rays.depths)
    index = torch.from_numpy(draw.choice(n, min(n, count), replace=False))
    return look._replace(rays=Rays(*(t[index] for t in look.rays)))
