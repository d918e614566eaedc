from pathlib import Path

import pytest
import yaml
from huggingface_hub import DatasetCard

from pipeline.datasets.card import mark_of, size_category, write_card
from pipeline.datasets.layout import Collection, open_collection
from pipeline.datasets.places import Folder
from pipeline.datasets.publish import publish
from pipeline.errors import PipelineError
from pipeline.folders import RunFolder
from tests.pipeline.datasets.conftest import write_column


def open_made(made_run: RunFolder) -> Collection:
    """The columns of the made run, as `open_collection` gives them with its manifest."""
    found = open_collection(made_run.path, Path("runs"))
    return Collection(made_run.run.name, found.path, found.columns, made_run)


def test_header_is_what_the_hub_reads(columns: Path) -> None:
    card = DatasetCard(write_card(open_collection(columns, Path("runs")), "mit", []))
    header = card.data.to_dict()
    assert header["license"] == "mit"
    assert header["size_categories"] == ["n<1K"]
    assert header["configs"] == [
        {
            "config_name": "render",
            "default": True,
            "data_files": [
                {"split": "test", "path": "render/test-*-of-00001.tar"},
                {"split": "train", "path": "render/train-*-of-00002.tar"},
            ],
        },
        {
            "config_name": "stylized-ink",
            "data_files": [{"split": "test", "path": "stylized-ink/test-*-of-00001.tar"}],
        },
    ]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, {"license": "unknown"}),
        ("CC-BY-4.0", {"license": "cc-by-4.0"}),
        ("ours: [do ask]", {"license": "other", "license_name": "ours: [do ask]"}),
    ],
)
def test_licence_is_one_of_the_hubs_or_other(
    columns: Path, given: str | None, expected: dict
) -> None:
    text = write_card(open_collection(columns, Path("runs")), given, [])
    header = yaml.safe_load(text.split("---\n")[1])
    assert {name: value for name, value in header.items() if "license" in name} == expected
    assert ("No licence was stated" in text) == (given is None)
    assert given is None or f"Licence: {given}." in text


@pytest.mark.parametrize(
    ("samples", "category"),
    [(0, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (99_999, "10K<n<100K"),
     (100_000, "100K<n<1M"), (9_999_999, "1M<n<10M"), (10_000_000, "n>10M")],
)  # fmt: skip
def test_size_categories(samples: int, category: str) -> None:
    assert size_category(samples) == category


def test_text_says_what_is_there(columns: Path) -> None:
    collection = open_collection(columns, Path("runs"))
    text = write_card(collection, None, ["pictures/sheet-render.webp"])
    for part in (
        mark_of(collection),
        "![sheet-render](pictures/sheet-render.webp)",
        "| render | train | 2 | 5 | 1 |",
        "| render | non_finite | 1 | train-00000001 |",
        "| `KEY.view_NN.depth.png` | 2 | uint16 [4, 4]: distance from the camera centre",
        "| `KEY.json` | 1 | cameras",
        "2 views, each with its camera in the JSON",
        "Distance from\nthe origin 2.7 to 2.7, focal length 4.263",
        '{"generator": "demo"}',
        'load_dataset("FOLDER OR REPOSITORY", "render", split="test"',
    ):
        assert part in text
    assert "{{" not in text
    assert "\n\n\n\n" not in text


def test_unknown_cameras_and_paths_of_the_maker(tmp_path: Path) -> None:
    def forget(meta: dict) -> None:
        meta.update(cameras="unknown", views=[{"name": v["name"]} for v in meta["views"]])

    from pipeline.shards.writer import ShardWriter
    from tests.pipeline.shards.conftest import make_sample

    made = {"content": {"path": "/home/me/secret/heads"}, "files": ["/a/b.pkl"]}
    with ShardWriter(tmp_path / "heads" / "stylized-ink", "train-00000", made) as shard:
        key = "train-00000001"
        shard.add(key, make_sample(key, 1, edit=forget), seed=1, split="train", seconds=0.1)
    text = write_card(open_collection(tmp_path / "heads", Path("runs")), None, [])
    assert "their cameras are not known" in text
    assert '{"content": {"path": "heads"}, "files": ["b.pkl"]}' in text


def test_a_column_without_samples_has_a_card(tmp_path: Path) -> None:
    column = tmp_path / "heads" / "render"
    write_column(column, {"train-00000": [1]}, failed=[1])
    collection = open_collection(tmp_path / "heads", Path("runs"))
    publish(collection, Folder(tmp_path / "hub"), None)
    assert "| render | train | 1 | 0 | 1 |" in (tmp_path / "hub" / "README.md").read_text()


def test_splits_of_one_name_on_the_hub_are_refused(tmp_path: Path) -> None:
    shards = {"held-out-00000": [1], "held_out-00000": [2]}
    write_column(tmp_path / "heads" / "render", shards)
    collection = open_collection(tmp_path / "heads", Path("runs"))
    with pytest.raises(PipelineError, match="held-out, held_out two have one name"):
        publish(collection, Folder(tmp_path / "hub"), None)
    assert not (tmp_path / "hub").exists()


def test_figures_of_a_run_are_in_its_card(made_run: RunFolder) -> None:
    text = write_card(open_made(made_run), None, [])
    assert "## Figures" in text
    [line] = [line for line in text.splitlines() if line.startswith("| statue | diffstyle360 |")]
    [head] = [line for line in text.splitlines() if line.startswith("| style | method |")]
    assert line.count("|") == head.count("|") > 6
    assert "PSNR: dB against the truth" in text
    assert "All shards were verified" in text
    assert "orbit" in text


def test_damaged_figures_are_one_line(made_run: RunFolder, copied_run: RunFolder) -> None:
    copied_run.metrics_path.write_bytes(made_run.metrics_path.read_bytes()[:-9])
    with pytest.raises(PipelineError, match=r"metrics\.parquet: not readable as Parquet; run"):
        write_card(open_made(copied_run), None, [])
    copied_run.metrics_path.unlink()
    assert "## Figures" not in write_card(open_made(copied_run), None, [])
