"""A run small enough to make in a second, and a way to write variants of its manifest."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

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


@pytest.fixture
def write_manifest(tmp_path: Path) -> Callable[..., Path]:
    """Writes the tiny manifest with some keys replaced: ``write_manifest({"rig.views": 8})``."""

    def write(changes: dict[str, Any] | None = None, name: str = "run.yaml") -> Path:
        content = yaml.safe_load(yaml.safe_dump(TINY))
        for key, value in (changes or {}).items():
            *parents, last = key.split(".")
            section = content
            for parent in parents:
                section = section.setdefault(parent, {})
            if value is None:
                del section[last]
            else:
                section[last] = value
        path = tmp_path / name
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return path

    return write
