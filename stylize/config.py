"""What a stylizer is made of: sizes, latent codec and noise schedule."""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

PREDICTIONS = ("epsilon", "sample", "v_prediction")
STYLE_ENCODERS = ("copy", "lora")
REFERENCE_TIMESTEPS = ("same", "zero")
SPACINGS = ("leading", "trailing")
VAE_LATENT_CHANNELS = 4


class StylizerError(RuntimeError):
    """Something the user can mend; the message is one line: what, where, what to do."""


@dataclass(frozen=True)
class StylizerConfig:
    """Sizes of every part; lists go from the finest level to the coarsest.

    `latent_factor` f, `vae_channels`: images enter the networks as the latents of an autoencoder
    of these channels, or, where there are none, as f x f blocks of pixels, whose colours are
    `chroma` times as far from grey; times `latent_scale`.
    `attention`, `motion`: which levels have attention to the references, and how many temporal
    transformer layers. `window`: the most views the motion modules see at once; `positions`: the
    length of their positional encoding (0: the window's). `prompt_tokens`: of the constant prompt.
    `style_encoder`: "copy" (weights of its own) or "lora" (the reference net's with updates of rank
    `lora_rank`). `reference_timestep`: references are read at the current timestep ("same"), or
    always at 0 ("zero", for a model trained so: they then serve every step). `back_view`: with the
    networks that draw the back of a head from its front. `hint_residual`: the denoiser sees the
    hint's own latents beside the noisy ones and predicts the departure from them (prediction
    "sample" only), so that from random weights it starts at the hint. `timestep_spacing`: sampling
    begins at a timestep that takes its noise for an image's ("leading", as Stable Diffusion does)
    or at the last ("trailing", Lin et al. 2024, better where steps are few).
    """

    image_size: int
    latent_factor: int
    channels: tuple[int, ...]
    attention: tuple[bool, ...]
    motion: tuple[int, ...]
    layers: int
    heads: int
    groups: int
    cross_attention_dim: int
    hint_channels: tuple[int, ...]
    window: int
    prediction: str = "epsilon"
    hint_residual: bool = False
    latent_scale: float = 1.0
    chroma: float = 1.0
    vae_channels: tuple[int, ...] = ()
    prompt_tokens: int = 1
    positions: int = 0
    style_encoder: str = "copy"
    lora_rank: int = 0
    reference_timestep: str = "same"
    back_view: bool = False
    train_timesteps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    timestep_spacing: str = "leading"

    def __post_init__(self) -> None:
        for name in ("channels", "attention", "motion", "hint_channels", "vae_channels"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for problem in self._problems():
            raise StylizerError(f"stylizer config: {problem}")

    def _problems(self) -> list[str]:
        whole = (
            "image_size", "latent_factor", "layers", "heads", "groups", "cross_attention_dim",
            "window", "prompt_tokens", "train_timesteps",
        )  # fmt: skip
        sizes = {name: getattr(self, name) for name in whole}
        problems = [
            f"{k}: {v!r} is not a positive integer"
            for k, v in sizes.items()
            if not (type(v) is int and v > 0)
        ]
        if problems:
            return problems
        coarsest = self.latent_factor * 2 ** (len(self.channels) - 1)
        if self.image_size % coarsest:
            problems.append(f"image_size: {self.image_size} is not a multiple of {coarsest}")
        if len(self.attention) != len(self.channels) or not any(self.attention):
            problems.append("attention: needs one flag per entry of channels, at least one true")
        if len(self.motion) != len(self.channels) or any(n < 0 for n in self.motion):
            problems.append("motion: needs one layer count >= 0 per entry of channels")
        if any(c % self.groups or c % (2 * self.heads) for c in self.channels):
            problems.append("channels: must be multiples of groups and of twice heads")
        if 2 ** (len(self.hint_channels) - 1) != self.latent_factor:
            problems.append(
                f"hint_channels: {len(self.hint_channels)} entries halve the hint "
                f"{len(self.hint_channels) - 1} times, latent_factor is {self.latent_factor}"
            )
        if self.vae_channels and 2 ** (len(self.vae_channels) - 1) != self.latent_factor:
            problems.append(
                f"vae_channels: {len(self.vae_channels)} entries halve the image "
                f"{len(self.vae_channels) - 1} times, latent_factor is {self.latent_factor}"
            )
        if not self.chroma > 0 or (self.vae_channels and self.chroma != 1):
            problems.append("chroma: above 0, and 1 with vae_channels")
        if any(c % self.groups for c in self.vae_channels):
            problems.append("vae_channels: must be multiples of groups")
        if self.positions and self.positions < self.window:
            problems.append(
                f"positions: the motion modules know {self.positions} places, "
                f"a window of {self.window} does not fit"
            )
        if self.style_encoder not in STYLE_ENCODERS:
            problems.append(f"style_encoder: {self.style_encoder!r} is not one of {STYLE_ENCODERS}")
        if (self.style_encoder == "lora") != (self.lora_rank > 0):
            problems.append("lora_rank: above 0 with style_encoder 'lora', and only then")
        if self.reference_timestep not in REFERENCE_TIMESTEPS:
            problems.append(
                f"reference_timestep: {self.reference_timestep!r} is not one of "
                f"{REFERENCE_TIMESTEPS}"
            )
        if self.timestep_spacing not in SPACINGS:
            problems.append(f"timestep_spacing: {self.timestep_spacing!r} is not one of {SPACINGS}")
        if self.prediction not in PREDICTIONS:
            problems.append(f"prediction: {self.prediction!r} is not one of {PREDICTIONS}")
        if self.hint_residual and self.prediction != "sample":
            problems.append("hint_residual: needs prediction 'sample'")
        if not 0 < self.beta_start < self.beta_end < 1:
            problems.append("beta_start, beta_end: must satisfy 0 < start < end < 1")
        return problems

    @property
    def latent_channels(self) -> int:
        return VAE_LATENT_CHANNELS if self.vae_channels else 3 * self.latent_factor**2

    @property
    def latent_size(self) -> int:
        return self.image_size // self.latent_factor

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "StylizerConfig":
        """Parse `to_json`'s text. Raises StylizerError on bad JSON, unknown or missing keys."""
        try:
            values: dict[str, Any] = json.loads(text)
        except json.JSONDecodeError as error:
            raise StylizerError(f"stylizer config: not JSON ({error})") from None
        fields = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(values, dict) or set(values) != fields:
            wrong = sorted(fields ^ set(values)) if isinstance(values, dict) else "not an object"
            raise StylizerError(f"stylizer config: missing or unknown keys {wrong}")
        try:
            return cls(**values)
        except TypeError as error:
            raise StylizerError(f"stylizer config: a value has the wrong type ({error})") from None

    def schedule(self) -> dict[str, Any]:
        """Arguments of every diffusers scheduler used here (Stable Diffusion's DDIM settings)."""
        return {
            "num_train_timesteps": self.train_timesteps,
            "beta_start": self.beta_start,
            "beta_end": self.beta_end,
            "beta_schedule": "scaled_linear",
            "timestep_spacing": self.timestep_spacing,
            "steps_offset": 1,
            "clip_sample": False,
            "set_alpha_to_one": False,
            "prediction_type": self.prediction,
        }


def demo() -> StylizerConfig:
    """The small preset: 128 px images as 4x4 pixel blocks, 12 million parameters.

    What made it learn fastest on a CPU: the hint's latents beside the noisy ones, and clean ones as
    a departure from them; random weights that attend by likeness (`networks`), without which
    colours are not carried over for thousands of steps; attention at 16x16 alone, where all the
    views of a window are still cheap; colours three times as far from grey, because pictures of
    heads on white differ far more in brightness than in hue, which a network then learns last; and
    faint latents (0.004), because at full strength the mean colour of a whole head shows through
    the noise at most timesteps, so that the network reads the palette there instead of from the
    style image.
    """
    return StylizerConfig(
        image_size=128,
        latent_factor=4,
        channels=(48, 64, 128),
        attention=(False, True, False),
        motion=(0, 1, 0),
        layers=1,
        heads=2,
        groups=8,
        cross_attention_dim=32,
        hint_channels=(16, 24, 32),
        window=4,
        prediction="sample",
        hint_residual=True,
        latent_scale=0.004,
        chroma=3.0,
        reference_timestep="zero",
        timestep_spacing="trailing",
    )


def sd15() -> StylizerConfig:
    """The published size: Stable Diffusion 1.5 with DiffPortrait360's parts around it, 512 px.

    Windows of 16 views as DiffStyle360 has; AnimateDiff's encoding knows 24 places.
    """
    return StylizerConfig(
        image_size=512,
        latent_factor=8,
        channels=(320, 640, 1280, 1280),
        attention=(True, True, True, False),
        motion=(1, 1, 1, 1),
        layers=2,
        heads=8,
        groups=32,
        cross_attention_dim=768,
        hint_channels=(16, 32, 96, 256),
        window=16,
        latent_scale=0.18215,
        vae_channels=(128, 256, 512, 512),
        prompt_tokens=77,
        positions=24,
        style_encoder="lora",
        lora_rank=64,
        back_view=True,
    )
