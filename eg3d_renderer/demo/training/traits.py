"""What sets heads apart, as numbers, and a mapping network that knows them from the beginning.

A head's properties are steps and waves of single dimensions of z (eight haircuts are eighths of
one). Learning them through pictures takes longer than all the rest; by themselves they take a
minute.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from eg3d_renderer.demo.generator import ProceduralHeads
from eg3d_renderer.demo.hair import HAIRCUTS
from eg3d_renderer.demo.heads import Head
from eg3d_renderer.networks.mapping import Mapping, normalize_2nd_moment

HEADS = 60_000  # that the mapping sees, again and again
BATCH = 512
LEARNING_RATE = 1e-2


def traits(z: Tensor) -> Tensor:
    """z [N, z_dim] -> [N, T]: the properties of heads, and what follows from them by steps."""
    heads = ProceduralHeads()
    ws = heads.mapping(z)
    derived = [derive(heads.head(w)) for w in ws]
    return torch.cat([ws[:, 0], torch.tensor(derived, dtype=torch.float32)], dim=1)


def derive(head: Head) -> list[float]:
    """Kinds as indicators, and what depends on a kind where it is there."""
    hat, hue = head.hat != "none", math.pi * head.hat_hue
    return [
        *(float(head.haircut == cut) for cut in HAIRCUTS),
        float(head.hat == "brim"),
        float(hat),
        hat * math.cos(hue),
        hat * math.sin(hue),
        float(head.beard > 0),
        head.beard,
        float(head.moustache > 0),
        float(head.glasses > 0),
        head.freckles,
        head.hair_tone,
        head.iris_hue,
    ]


def teach(mapping: Mapping, steps: int, seed: int) -> int:
    """Regress the mapping network's first outputs on the traits of heads; returns their number T.

    Afterwards w[:T] are the traits at mean 0 and variance 1, in the order of `traits`, as far as
    the network has learned them in `steps`; the other outputs are what they happen to be.
    """
    draw = torch.Generator().manual_seed(seed)
    z = normalize_2nd_moment(torch.randn(HEADS, ProceduralHeads.z_dim, generator=draw))
    known = traits(z)
    known = (known - known.mean(0)) / known.std(0)
    layers = [getattr(mapping, f"fc{i}") for i in range(mapping.num_layers)]
    # bias_act is made for images; for so few numbers torch's own functions are ten times faster
    acting = [[t.detach().clone().requires_grad_() for t in layer.scaled()] for layer in layers]
    optimizer = torch.optim.Adam(
        [t for pair in acting for t in pair], LEARNING_RATE, betas=(0.9, 0.99), fused=True
    )
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * (0.5 + 0.5 * math.cos(math.pi * step / steps))
        some = torch.randint(HEADS, (BATCH,), generator=draw)
        w = z[some]
        for weight, bias in acting:
            w = F.leaky_relu(F.linear(w, weight, bias), 0.2) * math.sqrt(2)
        loss = F.mse_loss(w[:, : known.shape[1]], known[some])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        for layer, (weight, bias) in zip(layers, acting, strict=True):
            layer.weight.copy_(weight * math.sqrt(weight.shape[1]) / layer.lr_multiplier)
            layer.bias.copy_(bias / layer.lr_multiplier)
    return known.shape[1]
