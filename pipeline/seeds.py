"""Every random draw of a run follows from its seed and the name of what it is for."""

import hashlib


def derive_seed(seed: int, *names: object) -> int:
    """An unsigned 32-bit seed for one draw.

    It depends on the run's seed and the names alone, e.g. ``derive_seed(360, "z", "train", 7)``:
    never on a job, a rank, a shard or the order of the work.
    """
    text = "/".join(map(str, (seed, *names)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
