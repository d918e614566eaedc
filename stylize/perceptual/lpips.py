"""LPIPS (Zhang et al. 2018, version 0.1) on VGG16, from torchvision's and its authors' files."""

from pathlib import Path

import torch
import torch.nn.functional as F

from stylize.perceptual.weights import fill, read_finite

SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
STAGES = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))  # convolutions and channels


Stages = tuple[tuple[int, int], ...]


class Lpips(torch.nn.Module):
    """Distances [N] of image pairs [N, 3, H, W] in [-1, 1], of at least 16 pixels a side; 0 is the
    same.

    Modules are named as in the two files: `features.I` of torchvision's vgg16 up to the last
    convolution, `linJ.model.1` of the heads.
    """

    def __init__(self, stages: Stages = STAGES):
        super().__init__()
        layers: dict[str, torch.nn.Module] = {}
        heads: dict[str, torch.nn.Module] = {}
        self.stages: list[list[str]] = []  # names of each stage's convolutions
        index, channels = 0, 3
        for number, (count, width) in enumerate(stages):
            names = [str(index + 2 * i) for i in range(count)]  # a ReLU after each
            for name in names:
                layers[name] = torch.nn.Conv2d(channels, width, 3, padding=1)
                channels = width
            self.stages.append(names)
            index += 2 * count + 1  # and a pooling after all
            heads[f"lin{number}"] = torch.nn.Conv2d(width, 1, 1, bias=False)
        self.features, self.heads = torch.nn.ModuleDict(layers), torch.nn.ModuleDict(heads)
        self.shift: torch.Tensor
        self.scale: torch.Tensor
        self.register_buffer("shift", torch.tensor(SHIFT).view(3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(SCALE).view(3, 1, 1), persistent=False)

    @torch.inference_mode()
    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        x = torch.cat([first, second]).float()
        x = (x - self.shift) / self.scale
        total = x.new_zeros(len(first))
        for number, names in enumerate(self.stages):
            if number:
                x = F.max_pool2d(x, 2)
            for name in names:
                x = F.relu(self.features[name](x))
            a, b = (x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10)).chunk(2)
            total = total + self.heads[f"lin{number}"]((a - b).square()).mean((1, 2, 3))
        return total


def load_lpips(vgg: Path, heads: Path) -> Lpips:
    """`vgg` is torchvision's vgg16 state dict, `heads` the authors' five linear layers (vgg.pth).

    Raises StylizerError where a file is not that.
    """
    network, linear = read_finite(vgg, ["features."]), read_finite(heads, ["lin"])
    widths = [linear[n].shape[1] for n in sorted(linear) if n.endswith("model.1.weight")]
    stages: Stages = STAGES
    if len(widths) == len(STAGES):
        counts = (count for count, _ in STAGES)
        stages = tuple(zip(counts, widths, strict=True))
    model = Lpips(stages)
    fill(model.features, {n.removeprefix("features."): t for n, t in network.items()}, vgg)
    fill(model.heads, {n.replace(".model.1.", "."): t for n, t in linear.items()}, heads)
    return model.eval()
