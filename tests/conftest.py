"""A run small enough to make in a second, and a way to write variants of its manifest."""

import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import yaml

hypothesis.settings.register_profile("untimed", deadline=None)  # machines are busy at times
hypothesis.settings.load_profile("untimed")
os.environ["OMP_NUM_THREADS"] = "1"  # tests run side by side; stages set their own number

TINY: dict[str, Any] = {
    "name": "tiny",
    "seed": 1,
    "generator": {"source": "procedural"},
    "identities": {"train": 3, "test": 1},
    "rig": {"kind": "orbit", "views": 4},
    "outputs": {"resolution": 32},
    "styles": {"statue": {"source": "procedural:statue"}},
    "finetune": {"steps": 2, "batch": 1, "views": 2, "checkpoint_every": 1},
    "stylize": {"references": {"statue": {"style": "statue"}}, "steps": 2},
    "shards": {"identities": 2},
}


def write_tiny(path: Path, changes: dict[str, Any]) -> Path:
    """Write the tiny manifest with some keys replaced, or removed where the value is None."""
    content = copy.deepcopy(TINY)
    for key, value in changes.items():
        *parents, last = key.split(".")
        section = content
        for parent in parents:
            section = section.setdefault(parent, {})
        if value is None:
            del section[last]
        else:
            section[last] = value
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


@pytest.fixture
def write_manifest(tmp_path: Path) -> Callable[..., Path]:
    """Writes the tiny manifest with some keys replaced: ``write_manifest({"rig.views": 8})``."""

    def write(changes: dict[str, Any] | None = None, name: str = "run.yaml") -> Path:
        return write_tiny(tmp_path / name, changes or {})

    return write


@pytest.fixture(scope="session")
def tiny_panohead(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PanoHead of 2 M parameters and images of 128 px, as an official file."""
    from tests.eg3d_renderer import oracle
    from tests.eg3d_renderer.checkpoints.official_writer import write_generator

    spec = oracle.facts("panohead_tiny")
    path = tmp_path_factory.mktemp("official") / "tiny-panohead.pkl"
    write_generator(path, spec, oracle.state_of(spec))
    return path


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stylizer of 32 px and a few thousand parameters, random weights."""
    from stylize import DiffStyle360, StylizerConfig

    config = StylizerConfig(
        image_size=32,
        latent_factor=4,
        channels=(8,),
        attention=(True,),
        motion=(1,),
        layers=1,
        heads=2,
        groups=4,
        cross_attention_dim=8,
        hint_channels=(8, 8, 8),
        window=2,
        prediction="sample",
    )
    folder = tmp_path_factory.mktemp("model") / "tiny"
    DiffStyle360(config).save_pretrained(folder)
    return folder
