"""Keeping reference banks: computed once for an image, a timestep and weights, and found again."""

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from weakref import WeakKeyDictionary

import torch
from torch import nn

from stylize.attention import Banks

SAMPLED = 32  # values of a parameter


class BankCache:
    """Banks by what they depend on: the weights that read, the latents read, and the timestep.

    Holds at most `capacity` bytes, the least recently used go first; banks that do not fit alone
    are not kept. A bank of another timestep, image or set of weights cannot be had by mistake: all
    three are in the key, weights and latents by the hash of their bytes.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.bytes = 0
        self.hits = 0
        self._banks: OrderedDict[str, Banks] = OrderedDict()
        self._weights: WeakKeyDictionary[nn.Module, tuple[list[float], str]] = WeakKeyDictionary()

    def get(
        self,
        net: nn.Module,
        latents: tuple[torch.Tensor, ...],
        t: torch.Tensor,
        compute: Callable[[], Banks],
    ) -> Banks:
        """The banks of `net` for these latents at timestep t, computed if they are not here."""
        key = hashlib.sha256(self._hash_weights(net).encode())
        for tensor in (*latents, t):
            key.update(repr((tensor.shape, tensor.dtype)).encode())
            key.update(_bytes(tensor))
        name = key.hexdigest()
        if name in self._banks:
            self.hits += 1
            self._banks.move_to_end(name)
            return self._banks[name]
        banks = compute()
        size = _size(banks)
        if size <= self.capacity:
            self._banks[name] = banks
            self.bytes += size
            while self.bytes > self.capacity:
                _, dropped = self._banks.popitem(last=False)
                self.bytes -= _size(dropped)
        return banks

    def _hash_weights(self, net: nn.Module) -> str:
        """SHA-256 over the parameters, hashed again only after they have visibly changed."""
        parameters = [parameter.detach() for parameter in net.parameters()]
        seen = _sample(parameters)
        known = self._weights.get(net)
        if known is None or known[0] != seen:
            digest = hashlib.sha256()
            for parameter in parameters:
                digest.update(_bytes(parameter))
            known = self._weights[net] = (seen, digest.hexdigest())
        return known[1]


def _sample(parameters: list[torch.Tensor]) -> list[float]:
    """The norm of each parameter and some of its values: what any training step moves."""
    norms = torch._foreach_norm(parameters, dtype=torch.float32)
    flat = [parameter.reshape(-1) for parameter in parameters]
    values = [p[:: max(1, len(p) // SAMPLED)][:SAMPLED].float() for p in flat]
    return torch.cat([torch.stack(norms), *values]).tolist()


def _bytes(tensor: torch.Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data


def _size(banks: Banks) -> int:
    return sum(states.nbytes for states in banks.values())
