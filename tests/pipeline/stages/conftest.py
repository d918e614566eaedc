"""A bulk manifest, and a request without one, small enough to make in a second."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.folders import BulkFolder, open_folder
from pipeline.inputs.jobs import Asked
from pipeline.stages.bulk import BulkRequest
from stylize import Sampling
from tests.pipeline.odd_images import encode, picture


@pytest.fixture
def open_planned(tmp_path: Path, tiny_model: Path) -> Callable[..., BulkFolder]:
    """The folder of a bulk manifest over `in`, with the style `ink` and some keys replaced."""
    (tmp_path / "ink.png").write_bytes(encode(picture(seed=99), "PNG"))
    (tmp_path / "oil.png").write_bytes(encode(picture(seed=98), "PNG"))

    def build(**changes: Any) -> BulkFolder:
        content = {
            "name": "inked",
            "content": "in",
            "styles": ["ink.png"],
            "model": str(tiny_model),
            "generator": "procedural",
            "views": 2,
            "sampling": {"steps": 1},
            "shard_size": 2,
        }
        path = tmp_path / "bulk.yaml"
        given = {k: v for k, v in (content | changes).items() if v is not None}
        path.write_text(yaml.safe_dump(given, sort_keys=False))
        folder = open_folder(path, tmp_path / "runs")
        assert isinstance(folder, BulkFolder)
        return folder

    return build


@pytest.fixture
def ask(tmp_path: Path, tiny_model: Path) -> Callable[..., BulkRequest]:
    """A request for few, quick samples; the style is a file `ink.png`."""
    ink = tmp_path / "ink.png"
    ink.write_bytes(encode(picture(seed=99), "PNG"))

    def build(content: Path | str | None, **changes: Any) -> BulkRequest:
        asked = {"hint": "auto", "views": 2, "presence": 1.0, "temperature": 1.0, "shard_size": 64}
        sampling = {"steps": 2}
        for name in [name for name in changes if name in asked]:
            asked[name] = changes.pop(name)
        fields = {
            "content": content and str(content),
            "portraits": False,
            "styles": {"ink": ink},
            "table": None,
            "model": tiny_model,
            "asked": Asked(**asked),
            "generator": "procedural",
            "sampling": Sampling(**sampling),
            "precision": "exact",
            "seed": 0,
            "rgb": "png",
        }
        return BulkRequest(**fields | changes)

    return build
