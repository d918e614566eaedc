"""When training has gone wrong, and what is said then."""

import math
import statistics
from collections.abc import Sequence

EXPLOSION = 10.0  # times the usual loss
RECENT = 8  # steps whose median is looked at: one hard timestep is no explosion
USUAL = 100  # steps before these, whose median is the usual loss
FEWEST = 20  # of them, before anything is judged


def remembered(losses: Sequence[float]) -> list[float]:
    """As much of the losses as `is_exploding` looks at."""
    return list(losses[-(RECENT + USUAL) :])


def is_exploding(losses: Sequence[float]) -> bool:
    """Whether the median of the last RECENT losses is above EXPLOSION times that of the USUAL ones
    before them. `losses`: of the steps so far after the warm-up."""
    before, recent = losses[-(RECENT + USUAL) : -RECENT], losses[-RECENT:]
    if len(before) < FEWEST:
        return False
    return statistics.median(recent) > EXPLOSION * statistics.median(before)


def find_fault(loss: float, norm: float, losses: Sequence[float]) -> str | None:
    """What is wrong with a step's loss and gradient norm, after these losses; or None."""
    if not (math.isfinite(loss) and math.isfinite(norm)):
        return f"loss or gradient is not finite (loss {loss}, gradient norm {norm})"
    if is_exploding([*losses, loss]):
        return (
            f"loss explodes (the median of the last {RECENT} steps is above {EXPLOSION:g} times "
            f"that of the {min(USUAL, len(losses) + 1 - RECENT)} before)"
        )
    return None
