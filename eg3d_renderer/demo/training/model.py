"""One network for all styles, and what each style has of its own.

All share the synthesis network and, up to a difference of their own, the last layer of the mapping
and the decoder. A style by itself is then a generator like any other.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from eg3d_renderer.checkpoints.checkpoint import Checkpoint, check_finite
from eg3d_renderer.demo.generator import ProceduralHeads
from eg3d_renderer.demo.training.rendering import Decoders
from eg3d_renderer.demo.training.traits import teach
from eg3d_renderer.generators import build_generator
from eg3d_renderer.networks.mapping import Mapping
from eg3d_renderer.triplane import TriPlaneGenerator

OWN = (
    "backbone.mapping.fc3.weight",
    "backbone.mapping.fc3.bias",
    "decoder.net.0.weight",
    "decoder.net.0.bias",
    "decoder.net.2.weight",
    "decoder.net.2.bias",
)
LAST = ("decoder.net.2.weight", "decoder.net.2.bias")
SHARPNESS = 20.0  # densities are learned as a fraction of what they are: they must grow large
MILDNESS = 0.1  # of the first modulations: a network that starts near the mean head
SIGN = 2.0  # in w, of the style
FIRST_SIZE = 32  # of the planes, when training begins
UNTRAINED = ("noise", "t_mapping")
INIT_KWARGS: dict[str, Any] = {
    "z_dim": ProceduralHeads.z_dim,
    "c_dim": 0,
    "w_dim": 128,
    "mapping_kwargs": {"num_layers": 4, "lr_multiplier": 1},
    "channel_base": 4096,
    "channel_max": 192,
    "img_resolution": 128,
    "neural_rendering_resolution": 128,
}
RENDERING_KWARGS: dict[str, Any] = {
    "ray_start": 2.25,
    "ray_end": 3.2,
    "box_warp": 0.9,
    "depth_resolution": 24,
    "depth_resolution_importance": 16,
    "superresolution_module": "none",
    "triplane_depth": 2,
    "avg_camera_radius": 2.7,
    "avg_camera_pivot": [0, 0, 0],
    "white_back": True,
}


class AllStyles(nn.Module):
    """The demo generator in all of its styles, with planes of `size`: `base`, and differences for
    each style."""

    def __init__(self, styles: list[str], size: int, seed: int) -> None:
        super().__init__()
        self.styles = styles
        self.rendering_kwargs = RENDERING_KWARGS | {"triplane_size": size}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.base = build_generator(
                "panohead", rendering_kwargs=self.rendering_kwargs, **INIT_KWARGS
            )
        base = dict(self.base.named_parameters())
        self.differences = nn.ParameterList(
            torch.zeros(len(styles), *base[name].shape) for name in OWN
        )
        with torch.no_grad():
            for name, parameter in base.items():
                if name.endswith("affine.weight"):
                    parameter.mul_(MILDNESS)
                if name in LAST:
                    parameter[0].div_(SHARPNESS)
                if name.startswith("t_mapping"):
                    parameter.zero_()
            for size in self.base.backbone.synthesis.resolutions:
                if size > FIRST_SIZE:  # what grows on the planes starts as nothing
                    getattr(self.base.backbone.synthesis, f"b{size}").torgb.weight.zero_()
        for name, parameter in base.items():
            parameter.requires_grad_(not any(part in name for part in UNTRAINED))

    def teach(self, lessons: int, seed: int) -> None:
        """Put what is known before any picture into w: the traits of a head, then the sign of its
        style."""
        mapping = self.base.backbone.mapping
        assert isinstance(mapping, Mapping)
        known = teach(mapping, lessons, seed)
        signs = slice(known, known + len(self.styles))
        difference = self.differences[OWN.index("backbone.mapping.fc3.bias")]
        with torch.no_grad():
            for parameter in mapping.get_submodule("fc3").parameters():
                parameter[signs] = 0
            difference[:, signs] = SIGN * torch.eye(len(self.styles))

    def own(self, style: int) -> dict[str, Tensor]:
        """The tensors of one style by their names in the state dict."""
        base = dict(self.base.named_parameters())
        own = {
            name: base[name] + difference[style]
            for name, difference in zip(OWN, self.differences, strict=True)
        }
        for name in LAST:
            own[name] = torch.cat([own[name][:1] * SHARPNESS, own[name][1:]])
        return own

    def ws(self, z: Tensor, styles: list[int]) -> Tensor:
        """z [N, z_dim], a style each -> ws [N, num_ws, w_dim]."""
        prefix = "backbone.mapping."
        mapping = self.base.backbone.mapping
        made: list[Tensor] = [z] * len(z)
        for style in dict.fromkeys(styles):
            rows = [row for row, other in enumerate(styles) if other == style]
            own = {
                name.removeprefix(prefix): tensor
                for name, tensor in self.own(style).items()
                if name.startswith(prefix)
            }
            ws = functional_call(mapping, own, (z[rows], z.new_zeros(len(rows), 0)))
            for row, w in zip(rows, ws, strict=True):
                made[row] = w
        return torch.stack(made)

    def decoders(self, styles: list[int]) -> Decoders:
        """Of heads in these styles."""
        scaled, present = [], list(dict.fromkeys(styles))
        for style in present:
            own = [t for name, t in self.own(style).items() if name.startswith("decoder")]
            (w0, b0), (w1, b1) = own[:2], own[2:]
            scaled.append((w0 / w0.shape[1] ** 0.5, b0, w1[:4] / w1.shape[1] ** 0.5, b1[:4]))
        rows = torch.tensor([present.index(style) for style in styles])
        return Decoders(*(torch.stack(tensors)[rows] for tensors in zip(*scaled, strict=True)))

    def generator(self, style: int, latents: int = 4096) -> TriPlaneGenerator:
        """One style by itself; its mean w is that of `latents` draws."""
        generator = build_generator(
            "panohead", rendering_kwargs=self.rendering_kwargs, **INIT_KWARGS
        )
        state = self.base.state_dict() | self.own(style)
        generator.load_state_dict(state)
        generator.requires_grad_(False).eval()
        z = torch.randn(latents, generator.z_dim, generator=torch.Generator().manual_seed(0))
        mapping = generator.backbone.mapping
        assert isinstance(mapping, Mapping)
        mapping.w_avg.copy_(mapping(z, z.new_zeros(latents, 0))[:, 0].mean(0))
        generator.style = self.styles[style]
        return generator

    def checkpoint(self, style: int) -> Checkpoint:
        """One style by itself, in half precision, as `diffstyle360 convert` would have it.

        Raises RendererError where a weight is too large for that.
        """
        state = {
            name: t.half().contiguous() for name, t in self.generator(style).state_dict().items()
        }
        check_finite(state, f"style {self.styles[style]}")
        settings = dict(INIT_KWARGS)
        resolution = settings.pop("neural_rendering_resolution")
        return Checkpoint("panohead", settings, self.rendering_kwargs, resolution, None, state)
