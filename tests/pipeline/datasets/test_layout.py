import json
from pathlib import Path

import pytest

from pipeline.datasets.layout import open_collection
from pipeline.errors import PipelineError
from pipeline.folders import open_run
from tests.pipeline.datasets.conftest import write_column


def test_names_count_up_in_each_split(columns: Path) -> None:
    collection = open_collection(columns, Path("runs"))
    assert list(collection.columns) == ["render", "stylized-ink"]
    names = {shard.name: shard.target("tar") for shard in collection.columns["render"]}
    assert names == {
        "test-00000": "render/test-00000-of-00001.tar",
        "train-00000": "render/train-00000-of-00002.tar",
        "train-00001": "render/train-00001-of-00002.tar",
    }
    chosen = open_collection(columns, Path("runs"), ["stylized-ink"])
    assert list(chosen.columns) == ["stylized-ink"]
    assert chosen.name == columns.name


def test_published_names_are_given_anew(tmp_path: Path) -> None:
    shards = {"train-00000-of-00002": [0], "train-00001-of-00002": [1]}
    for name, seeds in shards.items():
        folder = tmp_path / "hub" / "render"
        write_column(folder, {"train-00007": seeds})
        for path in folder.glob("train-00007.*"):
            path.rename(path.with_name(f"{name}{path.suffix}"))
    [render] = open_collection(tmp_path / "hub", Path("runs")).columns.values()
    assert [shard.published for shard in render] == list(shards)


def test_latents_are_left_out_unless_named(columns: Path) -> None:
    write_column(columns / "latents-render", {"train-00000": [0]})
    assert "latents-render" not in open_collection(columns, Path("runs")).columns
    assert open_collection(columns, Path("runs"), ["latents-render"]).columns


def test_a_run_must_be_verified(verified_run: tuple[Path, Path]) -> None:
    folder = open_run(*verified_run)
    with pytest.raises(PipelineError, match="no column 'style-x'; there: render, style-statue"):
        open_collection(*verified_run, ["style-x"])
    sound = folder.verified_path.read_bytes()
    folder.verified_path.write_text("{")
    with pytest.raises(PipelineError, match=r"verified\.json: not JSON; run .* verify. first"):
        open_collection(*verified_run)
    changed = json.loads(sound) | {"style-statue": {"ok": 3, "non_finite": 1}}
    folder.verified_path.write_text(json.dumps(changed))
    with pytest.raises(PipelineError, match="style-statue: changed since the run was verified"):
        open_collection(*verified_run)
    folder.verified_path.unlink()
    with pytest.raises(PipelineError, match=r"verified\.json: not there; run .* verify. first"):
        open_collection(*verified_run)


@pytest.mark.parametrize("extension", ["tar", "idx"])
def test_a_missing_file_is_told(verified_run: tuple[Path, Path], extension: str) -> None:
    path = open_run(*verified_run).column("style-statue") / f"train-00001.{extension}"
    path.unlink()
    with pytest.raises(PipelineError, match=rf"style-statue/{path.name}: not there; make the shar"):
        open_collection(*verified_run)


def test_a_missing_shard_is_told(verified_run: tuple[Path, Path]) -> None:
    for path in open_run(*verified_run).column("render").glob("train-00001.*"):
        path.unlink()
    with pytest.raises(PipelineError, match="render: changed since the run was verified"):
        open_collection(*verified_run)


def test_a_folder_is_verified(columns: Path) -> None:
    tar = columns / "render" / "train-00001.tar"
    tar.write_bytes(tar.read_bytes()[:-512])
    with pytest.raises(PipelineError, match=r"render/train-00001\.tar"):
        open_collection(columns, Path("runs"))
    with pytest.raises(PipelineError, match="no column 'x'; there: render, stylized-ink"):
        open_collection(columns, Path("runs"), ["x"])
    (columns / "empty").mkdir()
    with pytest.raises(PipelineError, match="holds no column"):
        open_collection(columns / "empty", Path("runs"))
