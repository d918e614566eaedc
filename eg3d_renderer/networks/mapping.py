"""z and a camera label to ws."""

import torch
from torch import Tensor, nn

from eg3d_renderer.networks.layers import FullyConnected


def normalize_2nd_moment(x: Tensor) -> Tensor:
    """Rows of mean square 1."""
    return x * (x.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()


class Mapping(nn.Module):
    """StyleGAN2's mapping network, conditioned on a label [N, c_dim] where c_dim > 0.

    `num_ws` None gives one w [N, w_dim] and no truncation by rows.
    """

    embed: FullyConnected
    w_avg: Tensor

    def __init__(
        self,
        z_dim: int,
        c_dim: int,
        w_dim: int,
        num_ws: int | None,
        num_layers: int = 8,
        lr_multiplier: float = 0.01,
        last_act: str = "lrelu",
    ) -> None:
        super().__init__()
        self.num_ws = num_ws
        self.num_layers = num_layers
        if c_dim:
            self.embed = FullyConnected(c_dim, w_dim)
        inputs = z_dim + (w_dim if c_dim else 0)
        for i in range(num_layers):
            act = last_act if i == num_layers - 1 else "lrelu"
            setattr(self, f"fc{i}", FullyConnected(inputs, w_dim, act, lr_multiplier))
            inputs = w_dim
        self.register_buffer("w_avg", torch.zeros(w_dim))

    def forward(self, z: Tensor, c: Tensor, psi: float = 1.0, cutoff: int | None = None) -> Tensor:
        """z [N, z_dim], c [N, c_dim] -> ws [N, num_ws, w_dim].

        The first `cutoff` ws, or all, are drawn towards the mean w: psi 1 leaves them, 0 is the
        mean.
        """
        x = normalize_2nd_moment(z.float())
        if "embed" in self._modules:
            x = torch.cat([x, normalize_2nd_moment(self.embed(c.float()))], dim=1)
        for i in range(self.num_layers):
            x = getattr(self, f"fc{i}")(x)
        if self.num_ws is not None:
            x = x[:, None].repeat(1, self.num_ws, 1)
        if psi != 1:
            truncated = self.w_avg.lerp(x, psi)
            if cutoff is None or self.num_ws is None:
                x = truncated
            else:
                x = torch.cat([truncated[:, :cutoff], x[:, cutoff:]], dim=1)
        return x
