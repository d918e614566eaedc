import json
from pathlib import Path

import torch
from PIL import Image

import eg3d_renderer as er
from eg3d_renderer import cameras
from pipeline.folders import RunFolder
from pipeline.shards.reader import Column
from pipeline.stages.export import export_column


def test_every_sample_becomes_a_folder_with_its_cameras(
    made_run: RunFolder, tmp_path: Path
) -> None:
    column = made_run.column("render")
    assert export_column(column, tmp_path / "out") == 4
    opened = Column(column)
    for key in opened.keys:
        folder = tmp_path / "out" / key
        labels = cameras.from_transforms(folder / "transforms.json")
        torch.testing.assert_close(labels, er.cameras.orbit(4), rtol=0, atol=1e-6)
        described = json.loads((folder / "transforms.json").read_text())
        for frame in described["frames"]:
            with Image.open(folder / frame["file_path"]) as image:
                assert image.size == (described["w"], described["h"])
            assert (folder / frame["mask_path"]).is_file()
        for name, content in opened.read(key, decoded=False).items():
            if name != "json":
                assert (folder / name).read_bytes() == content


def test_finished_folders_are_left(made_run: RunFolder, tmp_path: Path) -> None:
    export_column(made_run.column("render"), tmp_path)
    marked = tmp_path / "test-00000000" / "transforms.json"
    marked.write_text("{}")
    (tmp_path / "train-00000000" / "transforms.json").unlink()
    export_column(made_run.column("render"), tmp_path)
    assert marked.read_text() == "{}"
    assert (tmp_path / "train-00000000" / "transforms.json").is_file()
