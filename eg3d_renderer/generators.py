"""What a generator is, and how to get one."""

import difflib
import hashlib
import inspect
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from eg3d_renderer.checkpoints import Checkpoint, digest, read_folder, read_official
from eg3d_renderer.demo import weights
from eg3d_renderer.demo.generator import ProceduralHeads
from eg3d_renderer.demo.heads import IDENTITY
from eg3d_renderer.demo.styles import STYLES
from eg3d_renderer.errors import RendererError, suggest
from eg3d_renderer.families import FAMILIES
from eg3d_renderer.mesh import Field
from eg3d_renderer.triplane import TriPlaneGenerator

# what the published code passes along and images do not depend on
WITHOUT_EFFECT = ("fused_modconv_default", "sr_kwargs")


@runtime_checkable
class Generator(Protocol):
    """A 3D-aware generator: latents to ws, ws to planes, planes and a camera to a view.

    Names are EG3D's (Chan et al., 2022). `synthesis(ws, cam)` equals
    `render(planes(ws), ws, cam)` bit for bit; the second form makes an identity once, however many
    views it is seen from.
    """

    z_dim: int
    w_dim: int
    num_ws: int
    instance: slice  # the dimensions of z that set a style's instance; empty for a GAN of one style
    rendering_kwargs: dict[str, Any]  # ray_start, ray_end, box_warp, ...
    neural_rendering_resolution: int
    truncation_psi: float  # the usual one, of published samples
    style: str
    digest: str  # sha256 hex: names what made the images

    @property
    def img_resolution(self) -> int | None:
        """Of `image`; None where it is the resolution that is rendered."""
        ...

    @property
    def implementations(self) -> dict[str, str]:
        """For each op with kernels that it computes with: "native", or "reference"."""
        ...

    @property
    def camera(self) -> dict[str, Any]:
        """radius, pivot and focal of the cameras that the generator is made for."""
        ...

    def mapping(
        self,
        z: Tensor,
        conditioning: Tensor | None = None,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
    ) -> Tensor:
        """z [N, z_dim], camera labels [N, 25], one for all or None (frontal) -> ws."""
        ...

    def planes(self, ws: Tensor) -> Tensor:
        """ws [N, num_ws, w_dim] -> the identity's 3D representation, one row an identity."""
        ...

    def render(
        self,
        planes: Tensor,
        ws: Tensor,
        cam: Tensor,
        neural_rendering_resolution: int | None = None,
    ) -> dict[str, Tensor]:
        """One identity [1, ...] from V cameras, or V identities from one camera each.

        Returns image [V, 3, H, W] and image_raw [V, 3, h, w], about [-1, 1]; image_depth
        [V, 1, h, w], distance along the unit ray; and image_mask [V, 1, h, w] in [0, 1].
        """
        ...

    def synthesis(
        self, ws: Tensor, cam: Tensor, neural_rendering_resolution: int | None = None
    ) -> dict[str, Tensor]:
        """`render` of `planes(ws)`."""
        ...

    def depth_range(self, cam: Tensor) -> tuple[float, float]:
        """Least and greatest value that image_depth can have, from cameras [V, 25]."""
        ...

    def density_field(self, planes: Tensor, ws: Tensor) -> Field:
        """One identity as a function of world points [P, 3]: density [P], colours [P, 3]."""
        ...


def latents(seeds: list[int] | range, z_dim: int) -> Tensor:
    """z [N, z_dim] float32; row i is what EG3D draws for `--seeds=seeds[i]`."""
    rows = [np.random.RandomState(seed).randn(1, z_dim) for seed in seeds]
    return torch.from_numpy(np.concatenate(rows).astype(np.float32))


def load_generator(
    source: str | Path, device: str | torch.device = "cpu", precision: str = "exact"
) -> Generator:
    """The generator named by `source`, ready to render.

    A path: an official EG3D, PanoHead or SphereHead .pkl (nothing in it is executed), or a folder
    that `diffstyle360 convert` wrote, or the model.safetensors in it. A name: "procedural" (natural
    heads that need no weights) or "procedural:STYLE"; "demo" (a small PanoHead trained on them,
    by `make demo-weights`) or "demo:STYLE". Raises RendererError for anything else.

    `precision` "exact" computes in float32. "fast" keeps texels in half precision, and the
    super-resolution computes in float16 on a GPU, with bfloat16 products on a CPU that has them:
    images stay within 45 dB of the exact ones. The procedural heads know only "exact".
    """
    if isinstance(source, str) and source.partition(":")[0] == "procedural":
        if precision != "exact":
            raise RendererError(
                f"generator {source!r}: procedural heads have no precision {precision!r}; "
                "leave it out"
            )
        return ProceduralHeads(_style(source, STYLES), device)
    if isinstance(source, str) and source.partition(":")[0] == "demo":
        generator = load_demo(_style(source, weights.style_names()), device)
        generator.set_precision(precision)
        return generator
    path = Path(source)
    if path.suffix == ".pkl" or path.is_dir() or path.suffix == ".safetensors":
        checkpoint = read_official(path) if path.suffix == ".pkl" else read_folder(path)
        generator = generator_of(checkpoint, device)
        generator.set_precision(precision)
        return generator
    raise RendererError(
        f"generator {str(source)!r}: neither a name nor a file that exists; give 'procedural' or "
        f"'procedural:STYLE' with STYLE one of {', '.join(STYLES)}, 'demo' or 'demo:STYLE', or the "
        "path of an official .pkl or of a folder that 'diffstyle360 convert' wrote"
    )


def build_generator(
    family: str,
    *,
    neural_rendering_resolution: int = 64,
    plane_axes: list | None = None,
    **init_kwargs: Any,
) -> TriPlaneGenerator:
    """A generator with random weights: "eg3d", "panohead" or "spherehead".

    `init_kwargs`, and `rendering_kwargs` among them, are named as in the published code, those that
    only its training reads included. Raises RendererError, naming the key, for what is unknown,
    missing or impossible.
    """
    if family not in FAMILIES:
        raise RendererError(f"family {family!r}: not one of {', '.join(FAMILIES)}")
    kwargs = {name: v for name, v in init_kwargs.items() if name not in WITHOUT_EFFECT}
    if kwargs.pop("img_channels", 3) != 3:
        raise RendererError(f"init_kwargs.img_channels: {init_kwargs['img_channels']}; only 3 is")
    known = list(inspect.signature(TriPlaneGenerator).parameters)
    _check_names(kwargs, known, "init_kwargs")
    _check_names(
        kwargs.get("mapping_kwargs") or {}, ["num_layers", "lr_multiplier"], "mapping_kwargs"
    )
    for name in ("rendering_kwargs", "img_resolution"):
        if name not in kwargs:
            raise RendererError(f"init_kwargs: {name!r} is missing")
    return FAMILIES[family](
        **kwargs, neural_rendering_resolution=neural_rendering_resolution, plane_axes=plane_axes
    )


def generator_of(checkpoint: Checkpoint, device: str | torch.device = "cpu") -> TriPlaneGenerator:
    """The checkpoint as a generator: every tensor in its place, none missing, none left over."""
    kwargs = checkpoint.init_kwargs | {"rendering_kwargs": checkpoint.rendering_kwargs}
    with torch.device("meta"):
        generator = build_generator(
            checkpoint.family,
            neural_rendering_resolution=checkpoint.neural_rendering_resolution,
            plane_axes=checkpoint.plane_axes,
            **kwargs,
        )
    try:
        generator.load_state_dict(checkpoint.state, strict=True, assign=True)
    except RuntimeError as error:  # torch lists every key; the first says enough
        lines = [line.strip() for line in str(error).splitlines()[1:]]
        raise RendererError(
            f"{checkpoint.family} checkpoint: its tensors are not those that its own settings ask "
            f"for: {lines[0][:300]}"
        ) from None
    generator.digest = digest(checkpoint)
    return generator.to(device).float().eval().requires_grad_(False)


def load_demo(
    style: str = weights.NATURAL,
    device: str | torch.device = "cpu",
    folder: Path = weights.FOLDER,
) -> TriPlaneGenerator:
    """A style of the trained demo generator in a folder of `demo.weights.save_styles`.

    It has the procedural heads' latents: the same z is the same head, about. Raises RendererError
    where the folder is not whole.
    """
    generator = generator_of(weights.read_style(style, folder), device)
    generator.style = style
    generator.instance = slice(IDENTITY, generator.z_dim)
    generator.truncation_psi = 1.0
    generator.digest = hashlib.sha256(f"{style} {generator.digest}".encode()).hexdigest()
    return generator


def _style(source: str, styles: Iterable[str]) -> str:
    """That of "NAME:STYLE", natural for "NAME" alone."""
    name, _, style = source.partition(":")
    style, styles = style or "natural", list(styles)
    if style not in styles:
        near = difflib.get_close_matches(style, styles, n=1, cutoff=0.4)
        hint = f"did you mean '{name}:{near[0]}'? " if near else ""
        raise RendererError(
            f"generator {source!r}: no style {style!r}; {hint}styles: {', '.join(styles)}"
        )
    return style


def _check_names(given: dict[str, Any], known: list[str], where: str) -> None:
    for name in given:
        if name not in known:
            raise RendererError(f"{where}: {name!r} is not known; {suggest(name, known)}")
