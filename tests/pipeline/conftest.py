"""A whole tiny run, made once by calling the stages, and a stylizer small enough to train in it."""

import copy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from pipeline.folders import RunFolder, open_run
from pipeline.stages.evaluate import evaluate_run
from pipeline.stages.finetune import finetune_run
from pipeline.stages.plan import plan_run
from pipeline.stages.render import render_shard
from pipeline.stages.stylize import open_stylization, stylize_shard
from pipeline.stages.verify import verify_run
from tests.conftest import TINY

CPU = torch.device("cpu")


def make_columns(folder: RunFolder) -> None:
    plan_run(folder)
    for column in folder.run.columns:
        for shard in folder.run.shard_names():
            render_shard(folder, column, shard, CPU)


@pytest.fixture(scope="session")
def made_run(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> RunFolder:
    """The tiny run with every stage done but the report. Do not change it: copy it."""
    base = tmp_path_factory.mktemp("made")
    content = copy.deepcopy(TINY)
    content["finetune"]["start"] = str(tiny_model)
    (base / "run.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    folder = open_run(base / "run.yaml", base / "runs")
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
    content = copy.deepcopy(TINY)
    for section in ("styles", "finetune", "stylize"):
        del content[section]
    (base / "run.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    folder = open_run(base / "run.yaml", base / "runs")
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
