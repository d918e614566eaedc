"""The trained models in the package: where they lie. Their own packages are not imported."""

import importlib.util
from pathlib import Path

DEMO = "demo"  # either by its name; the generator also before ":STYLE"


def generator_folder() -> Path:
    return _folder_in("eg3d_renderer", "demo/weights")


def stylizer_folder() -> Path:
    return _folder_in("stylize", "demo")


def _folder_in(package: str, inside: str) -> Path:
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / inside
