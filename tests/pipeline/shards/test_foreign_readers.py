"""The shards as other libraries see them: one sample is one identity with all its views."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from pipeline.shards.codecs import decode

KEYS = [f"train-{i:08d}" for i in (0, 2, 3, 4, 5)]


def test_webdataset_groups_all_views_of_an_identity(column, make_sample):
    webdataset = pytest.importorskip("webdataset")
    tars = [str(column / f"train-0000{i}.tar") for i in range(2)]
    samples = list(webdataset.WebDataset(tars, shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == KEYS
    for sample in samples:
        members = {k: v for k, v in sample.items() if not k.startswith("__")}
        assert members == make_sample(sample["__key__"], int(sample["__key__"][-1]))


def test_hugging_face_datasets_groups_all_views_of_an_identity(column, make_sample, tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = datasets.load_dataset(
        "webdataset",
        data_files={"train": [str(column / f"train-0000{i}.tar") for i in range(2)]},
        split="train",
        streaming=True,
        cache_dir=str(tmp_path / "cache"),
    )
    rows = list(rows)
    assert [row["__key__"] for row in rows] == KEYS
    for row in rows:
        members = make_sample(row["__key__"], int(row["__key__"][-1]))
        assert set(members) == {name for name in row if not name.startswith("__")}
        assert row["json"]["views"] == json.loads(members["json"])["views"]
        for name in set(members) - {"json"}:
            assert np.array_equal(np.asarray(row[name]), decode(name, members[name]))


def test_a_strict_png_reader_agrees(column):
    """fpng's files, read by a decoder that is not ours, are plain 8-bit RGB."""
    data = (column / "train-00000.tar").read_bytes()
    image = Image.open(io.BytesIO(data[512:]), formats=["PNG"])
    assert (image.mode, image.size) == ("RGB", (8, 8))
