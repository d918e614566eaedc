"""A whole tiny run, made once by calling the stages, and a stylizer small enough to train in it."""

import hashlib
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.folders import RunFolder, open_run
from pipeline.stages.evaluate import evaluate_run
from pipeline.stages.finetune import finetune_run
from pipeline.stages.plan import plan_run
from pipeline.stages.render import render_shard
from pipeline.stages.stylize import open_stylization, stylize_shard
from pipeline.stages.verify import verify_run
from tests.conftest import write_tiny

CPU = torch.device("cpu")


UNRENDERED = {"name", "allow_failed", "finetune", "stylize"}  # what columns do not depend on
_kept = tempfile.TemporaryDirectory(prefix="columns-")  # by the digest of what they depend on


def make_columns(folder: RunFolder) -> None:
    """Plan and render, or copy the columns of an earlier run that rendered the same."""
    plan_run(folder)
    digest = hashlib.sha256(folder.run.model_dump_json(exclude=UNRENDERED).encode()).hexdigest()
    kept = Path(_kept.name) / digest
    if kept.exists():
        for column in folder.run.columns:
            shutil.copytree(kept / column, folder.column(column), dirs_exist_ok=True)
        return
    for column in folder.run.columns:
        for shard in folder.run.shard_names():
            render_shard(folder, column, shard, CPU)
    for column in folder.run.columns:
        shutil.copytree(folder.column(column), kept / column)


@pytest.fixture(scope="session")
def made_run(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> RunFolder:
    """The tiny run with every stage done but the report. Do not change it: copy it."""
    base = tmp_path_factory.mktemp("made")
    manifest = write_tiny(base / "run.yaml", {"finetune.start": str(tiny_model)})
    folder = open_run(manifest, base / "runs")
    make_columns(folder)
    finetune_run(folder)
    stylization = open_stylization(folder, CPU)
    stylize_shard(stylization, "statue", "test-00000")
    evaluate_run(folder)
    verify_run(folder)
    return folder


@pytest.fixture(scope="session")
def rendered_column(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base column of the tiny run. Do not change it: copy it."""
    base = tmp_path_factory.mktemp("rendered")
    changes = dict.fromkeys(("styles", "finetune", "stylize"))
    folder = open_run(write_tiny(base / "run.yaml", changes), base / "runs")
    make_columns(folder)
    return folder.column("render")


@pytest.fixture
def copied_run(made_run: RunFolder, tmp_path: Path) -> RunFolder:
    """The made run in a folder of its own, to be damaged."""
    shutil.copytree(made_run.path, tmp_path / "copy")
    return RunFolder(made_run.run, tmp_path / "copy")


@pytest.fixture
def open_variant(
    write_manifest: Callable[..., Path], tmp_path: Path, tiny_model: Path
) -> Callable[..., RunFolder]:
    """Opens a run of the tiny manifest with some keys replaced; nothing is made."""

    def open_it(changes: dict[str, Any] | None = None) -> RunFolder:
        start = {} if changes and "finetune" in changes else {"finetune.start": str(tiny_model)}
        return open_run(write_manifest(start | (changes or {})), tmp_path / "runs")

    return open_it
