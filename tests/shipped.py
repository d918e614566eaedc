"""Marks for tests of what ships with the package."""

import pytest

from eg3d_renderer.demo.weights import FOLDER, MANIFEST

needs_demo_weights = pytest.mark.skipif(
    not (FOLDER / MANIFEST).is_file(),
    reason="no trained demo generator ships yet: make demo-weights",
)
