import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from pipeline.errors import PipelineError
from pipeline.folders import RunFolder
from pipeline.stages.report import _pairs, report_run
from pipeline.stages.stylize import open_stylization, stylize_shard
from pipeline.stages.verify import verify_run
from tests.pipeline.conftest import make_columns


def test_page_is_self_contained_and_shows_everything(copied_run: RunFolder) -> None:
    report_run(copied_run)
    page = copied_run.report_path.read_text()
    sources = re.findall(r'(?:src="|href="|url\()([^")]{0,30})', page)
    assert len(sources) == 1 + 1 + 3  # turntable, comparison, contact sheets
    assert all(source.startswith("data:image/webp;base64,") for source in sources)
    assert "http" not in re.sub(r"base64,[^\")]*", "", page)
    for text in (
        "Turntables",
        "Stylization",
        "<td>truth<",
        "<td>copy_content<",
        "<td>transfer_statistics<",
        "<td>diffstyle360<",
        "From the front, the side and the back",
        "loss curve",
        "tiny",
        "seed: 1",
    ):
        assert text in page
    names = {path.stem for path in (copied_run.path / "pictures").iterdir()}
    assert {"turntable-test-00000000", "compare-statue", "sheet-render"} <= names


def test_run_that_only_renders_has_a_report(open_variant: Callable[..., RunFolder]) -> None:
    folder = open_variant({"finetune": None, "stylize": None, "styles": {}})
    make_columns(folder)
    with pytest.raises(PipelineError, match="run `diffstyle360 verify` first"):
        report_run(folder)
    verify_run(folder)
    report_run(folder)
    page = folder.report_path.read_text()
    assert "Turntables" in page
    assert "Stylization" not in page
    assert "Figures" not in page


def test_content_may_have_another_size_than_what_is_made_of_it(
    open_variant: Callable[..., RunFolder], tiny_model: Path
) -> None:
    changes = {"finetune": None, "stylize.model": str(tiny_model), "outputs.resolution": 16}
    folder = open_variant(changes)
    make_columns(folder)
    stylize_shard(open_stylization(folder, torch.device("cpu")), "statue", "test-00000")
    verify_run(folder)
    report_run(folder)
    [turntable] = (folder.path / "pictures").glob("turntable-*.webp")
    with Image.open(turntable) as image:
        assert image.size == (2 * 32, 2 * 32)  # rendered over stylized, content beside style


def test_names_from_the_manifest_are_escaped(copied_run: RunFolder) -> None:
    source = copied_run.run.generator.model_copy(update={"source": "<script>alert(1)</script>"})
    folder = RunFolder(copied_run.run.model_copy(update={"generator": source}), copied_run.path)
    report_run(folder)
    assert "<script>alert" not in folder.report_path.read_text()


def test_references_of_one_style_are_told_apart(made_run: RunFolder) -> None:
    settings = made_run.run.stylize
    assert settings is not None
    faint = settings.references["statue"].model_copy(update={"presence": 0.5})
    references = settings.references | {"faint": faint}
    stylize = settings.model_copy(update={"references": references})
    folder = RunFolder(made_run.run.model_copy(update={"stylize": stylize}), made_run.path)
    assert [title for title, *_ in _pairs(folder)] == ["content", "statue", "faint"]
