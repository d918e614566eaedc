"""3D GAN -> views: images, depth and masks of one identity from any camera."""

from eg3d_renderer import cameras, geometry, mesh
from eg3d_renderer.errors import RendererError
from eg3d_renderer.generators import Generator, build_generator, latents, load_generator

__all__ = [
    "Generator",
    "RendererError",
    "build_generator",
    "cameras",
    "geometry",
    "latents",
    "load_generator",
    "mesh",
]
