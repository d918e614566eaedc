"""Columns of 8 x 8 pixels, of any splits and shards, and one small verified run."""

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.folders import RunFolder, open_run
from pipeline.shards.writer import ShardWriter
from pipeline.stages.verify import verify_run
from tests.conftest import TINY
from tests.pipeline.conftest import make_columns
from tests.pipeline.shards.conftest import make_sample


def write_column(
    folder: Path,
    shards: Mapping[str, Sequence[int]],
    failed: Collection[int] = (),
    provenance: Mapping[str, Any] | None = None,
    **sample: Any,
) -> Path:
    """A column of these seeds; `sample` goes to `make_sample`. The split is the shards' name's."""
    for name, seeds in shards.items():
        split = name.rpartition("-")[0]
        with ShardWriter(folder, name, provenance or {"generator": "demo"}) as shard:
            for seed in seeds:
                key = f"{split}-{seed:08d}"
                if seed in failed:
                    shard.fail(key, "non_finite", "image: a NaN", seed=seed, split=split)
                    continue
                members = make_sample(
                    key, seed, edit=lambda meta, split=split: meta.update(split=split), **sample
                )
                shard.add(key, members, seed=seed, split=split, seconds=0.5)
    return folder


SHARDS = {"train-00000": [0, 1, 2], "train-00001": [3, 4, 5], "test-00000": [6, 7]}


@pytest.fixture
def columns(tmp_path: Path) -> Path:
    """A folder of two columns that zip: `render`, and `stylized-ink` of the test split alone."""
    folder = tmp_path / "heads-0123456789"
    write_column(folder / "render", SHARDS, failed=[1])
    write_column(folder / "stylized-ink", {"test-00000": [6, 7]}, views=1)
    return folder


@pytest.fixture(scope="session")
def session_run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    base = tmp_path_factory.mktemp("verified")
    content = copy.deepcopy(TINY) | {"outputs": {"resolution": 16}}
    for section in ("finetune", "stylize"):
        del content[section]
    (base / "run.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    folder = open_run(base / "run.yaml", base / "runs")
    make_columns(folder)
    verify_run(folder)
    return folder


@pytest.fixture
def verified_run(session_run: RunFolder, tmp_path: Path) -> tuple[Path, Path]:
    """Manifest and runs folder of a verified run, columns render and style-statue: a copy."""
    import shutil

    base = session_run.path.parents[1]
    shutil.copytree(base, tmp_path / "verified")
    return tmp_path / "verified" / "run.yaml", tmp_path / "verified" / "runs"


@pytest.fixture
def contents() -> Callable[[Path], dict[str, bytes]]:
    """All files below a folder, by their path in it."""

    def read(folder: Path) -> dict[str, bytes]:
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return {str(path.relative_to(folder)): path.read_bytes() for path in files}

    return read
