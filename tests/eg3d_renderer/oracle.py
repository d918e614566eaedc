"""Numbers of the published code, and the pseudo-random weights that they were computed with."""

import json
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import eg3d_renderer as er
from eg3d_renderer.marching.depths import Draws
from eg3d_renderer.triplane import TriPlaneGenerator

FOLDER = Path(__file__).parents[1] / "data" / "oracle"
MODELS = ("eg3d_tiny_2x", "eg3d_tiny_8xdc", "panohead_tiny", "spherehead_tiny")


def numbers(name: str) -> dict[str, Tensor]:
    with np.load(FOLDER / f"{name}.npz") as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files}


def facts(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{name}.json").read_text())


def fill(key: str, shape: list[int], sigma_gain: float = 1.0, sigma_bias: float = 0.0) -> Tensor:
    """The weight of this name: normal numbers seeded by its CRC, scaled by what it is."""
    if key.endswith("resample_filter"):
        taps = np.array([1.0, 3.0, 3.0, 1.0])
        return torch.from_numpy((np.outer(taps, taps) / 64).astype(np.float32))
    value = np.random.RandomState(zlib.crc32(key.encode())).standard_normal(shape)
    scales = (  # the first that matches
        (r"noise_strength$", lambda n: 0.1 + 0.05 * n),
        (r"noise_const$", lambda n: n),
        (r"^t_mapping\.w_avg$", lambda n: 0.01 * n),
        (r"w_avg$", lambda n: 0.3 * n),
        (r"^backbone\.mapping\.fc\d+\.weight$", lambda n: 100 * n),
        (r"^backbone\.mapping\.fc\d+\.bias$", lambda n: 20 * n),
        (r"^t_mapping\.fc\d+\.(weight|bias)$", lambda n: 0.05 * n),
        (r"affine\.bias$", lambda n: 1 + 0.2 * n),
        (r"^decoder\.net\.2\.weight$", lambda n: np.vstack([n[:1] * sigma_gain, n[1:]])),
        (r"^decoder\.net\.2\.bias$", lambda n: 0.3 * n + sigma_bias * (np.arange(len(n)) == 0)),
        (r"^decoder\.net\.0\.bias$", lambda n: 0.3 * n),
        (r"bias$", lambda n: 0.1 * n),
        (r"^dataset_label_std$", abs),
        (r"(weight|const)$", lambda n: n),
    )
    scale = next(scale for pattern, scale in scales if re.search(pattern, key))
    return torch.from_numpy(np.asarray(scale(value), dtype=np.float32).reshape(shape))


def fill_module(module: nn.Module, prefix: str, **sigma: float) -> None:
    state = module.state_dict()
    module.load_state_dict({k: fill(prefix + k, list(v.shape), **sigma) for k, v in state.items()})
    module.requires_grad_(False)


def state_of(spec: dict[str, Any]) -> dict[str, Tensor]:
    """The state dict that a model's description lists, each tensor checked by its CRC."""
    sigma = {"sigma_gain": spec["sigma_gain"], "sigma_bias": spec["sigma_bias"]}
    state = {key: fill(key, shape, **sigma) for key, shape, _ in spec["state_dict"]}
    for key, _, crc in spec["state_dict"]:
        assert f"{zlib.crc32(state[key].numpy().tobytes()):08x}" == crc, key
    return state


def build(spec: dict[str, Any]) -> TriPlaneGenerator:
    """The model of a description, with its weights."""
    generator = er.build_generator(
        spec["family"],
        neural_rendering_resolution=spec["neural_rendering_resolution"],
        **spec["init_kwargs"],
    )
    generator.load_state_dict(state_of(spec), strict=True)
    return generator.eval().requires_grad_(False)


def draws(mode: str, rays: int, coarse: int, fine: int) -> Draws | None:
    """The random numbers of a depth sampling mode."""
    if mode == "mid":
        return None
    if mode == "zero":
        return Draws(torch.zeros(1, 1), torch.linspace(0, 1, fine)[None])
    jitter = np.random.RandomState(1001).random_sample((rays, coarse))
    u = np.random.RandomState(1002).random_sample((rays, fine))
    return Draws(torch.from_numpy(jitter).float(), torch.from_numpy(u).float())
