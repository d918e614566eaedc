"""Where the weights begin that no checkpoint brings: copies, zeros, and draws from a fixed seed."""

import math
import re
from collections.abc import Mapping

import torch
from diffusers.models.embeddings import SinusoidalPositionalEmbedding
from torch import Tensor

from stylize.attention import INITIAL_BIAS
from stylize.model import DiffStyle360

SEED = 0
COPIED_UNET = "from the UNet"
COPIED_PROJECTION = "from the denoiser's to_k, to_v"
COPIED_REFERENCE = "from the reference net"
ZERO = "at zero"
DRAWN = "drawn"


def start_style(model: DiffStyle360) -> None:
    """Begin all that is the style's anew, from the networks that the model has."""
    state = model.own_state()
    starts = Starts(state, state)
    with torch.no_grad():
        for name, parameter in model.trainable_parameters("style").items():
            parameter.copy_(starts.style(name)[0])


class Starts:
    """The start of one weight after another, by its full name in the stylizer.

    `shapes`: of the whole stylizer. `state`: what is known already, which copies are taken from.
    """

    def __init__(self, shapes: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
        self.shapes = shapes
        self.state = state
        self.generator = torch.Generator().manual_seed(SEED)

    def style(self, name: str) -> tuple[Tensor, str]:
        """Of Style Fusion Attention and the style encoder: the base path alone at first."""
        if name.startswith("style_encoder."):
            if ".lora_A." in name:
                return self._draw(name), DRAWN
            if ".lora_B." in name:
                return self._zeros(name), ZERO
            return self.state[name.replace("style_encoder.", "reference_net.", 1)], COPIED_REFERENCE
        if ".processor.to_" in name:
            return self.state[name.replace(".processor", "")], COPIED_PROJECTION
        if name.endswith(".gate.bias"):
            return torch.full(self.shapes[name].shape, INITIAL_BIAS), f"at {INITIAL_BIAS:g}"
        return self._zeros(name), ZERO

    def reference(self, name: str) -> tuple[Tensor, str]:
        """Of a reference net: the UNet itself."""
        return self.state[name.replace("reference_net.", "denoiser.", 1)], COPIED_UNET

    def camera(self, name: str) -> tuple[Tensor, str]:
        """Of a ControlNet: the UNet's encoder, with no effect yet."""
        own = name.removeprefix("camera_net.")
        if re.match(r"controlnet_(down_blocks|mid_block|cond_embedding\.conv_out)\.", own):
            return self._zeros(name), ZERO
        if own.startswith("controlnet_cond_embedding."):
            return self._draw(name), DRAWN
        return self.state[f"denoiser.{own}"], COPIED_UNET

    def motion(self, name: str) -> tuple[Tensor, str]:
        """Of motion modules: the identity, as AnimateDiff begins."""
        shape = self.shapes[name].shape
        if ".proj_out." in name:
            return self._zeros(name), ZERO
        if name.endswith(".pos_embed.pe"):
            _, positions, channels = shape
            return SinusoidalPositionalEmbedding(channels, positions).pe, "sinusoids"
        if re.search(r"\.norm\d?\.", name):
            return torch.full(shape, float(name.endswith(".weight"))), "plain norms"
        return self._draw(name), DRAWN

    def _zeros(self, name: str) -> Tensor:
        return torch.zeros(self.shapes[name].shape)

    def _draw(self, name: str) -> Tensor:
        """As torch draws the weights and biases of linear layers and convolutions."""
        stem, _, kind = name.rpartition(".")
        weight = self.shapes[f"{stem}.weight" if kind == "bias" else name]
        bound = 1 / math.sqrt(weight[0].numel())
        drawn = torch.empty(self.shapes[name].shape)
        return drawn.uniform_(-bound, bound, generator=self.generator)
