import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from manifests.schemas import VERSION_KEY
from pipeline.datasets import findings
from pipeline.datasets.quality import (
    QUALITY,
    describe_depth,
    examine,
    find_front,
    measure,
    quality_path,
)
from pipeline.shards import codecs
from pipeline.shards.reader import Column
from pipeline.shards.verify import verify_column
from pipeline.shards.writer import ShardWriter
from tests.pipeline.datasets.conftest import write_column
from tests.pipeline.shards.conftest import forge_shard, make_sample, make_view

SIDE = 32


def draw_sample(key: str, seed: int, **odd: Any) -> dict[str, bytes]:
    """Two views of a coloured square on white; `odd` replaces the first one's image, mask, depth"""
    random = np.random.RandomState(seed)
    mask = np.zeros((SIDE, SIDE), np.float32)
    mask[8:24, 8:24] = 1
    coarse = np.kron(random.randint(40, 200, (4, 4, 3)), np.ones((8, 8, 1)))
    image = np.where(mask[..., None] > 0, coarse, 255).astype(np.uint8)
    depth = np.where(mask > 0, 2.5 + random.uniform(0, 0.1), 3.3).astype(np.float32)
    members: dict[str, bytes] = {}
    for view in range(2):
        first = odd if view == 0 else {}
        members |= {
            f"view_{view:02d}.rgb.png": codecs.encode_rgb(first.get("image", image), "png"),
            f"view_{view:02d}.depth.npy": codecs.encode_array(first.get("depth", depth)),
            f"view_{view:02d}.mask.png": codecs.encode_mask(first.get("mask", mask)),
        }
    meta = {
        "key": key, "seed": seed, "split": key.rpartition("-")[0], "resolution": SIDE,
        "depth": {"start": 2.25, "end": 3.3, "levels": None},
        "views": [make_view(view, 2) for view in range(2)],
    }  # fmt: skip
    return members | {"json": codecs.encode_json(meta)}


def write_samples(column: Path, shard: str, samples: dict[int, dict[str, Any]]) -> None:
    split = shard.rpartition("-")[0]
    with ShardWriter(column, shard, {}) as writer:
        for seed, odd in samples.items():
            key = f"{split}-{seed:08d}"
            members = draw_sample(key, odd.pop("like", seed), **odd)
            writer.add(key, members, seed=seed, split=split, seconds=0.1)


BLACK, FULL = np.zeros((SIDE, SIDE, 3), np.uint8), np.ones((SIDE, SIDE), np.float32)
FLAT = np.full((SIDE, SIDE, 3), 128, np.uint8)
NAN = np.full((SIDE, SIDE), np.nan, np.float32)


@pytest.fixture
def odd_column(tmp_path: Path) -> Path:
    """Sound identities, and one for each thing that can be odd."""
    column = tmp_path / "render"
    write_samples(column, "train-00000", {seed: {} for seed in range(20)})
    odd: dict[int, dict[str, Any]] = {
        20: {"image": BLACK}, 21: {"mask": FULL * 0}, 22: {"mask": FULL}, 23: {"image": FLAT},
        24: {"depth": NAN}, 25: {"depth": FULL}, 26: {"image": BLACK + 255}, 27: {"like": 3},
    }  # fmt: skip
    write_samples(column, "test-00000", odd)
    return column


def flag(found: findings.Quality, start: str) -> findings.Flag:
    [one] = [flag for flag in found.flags if flag.title.startswith(start)]
    return one


def test_every_oddity_is_flagged_by_its_own_name(odd_column: Path) -> None:
    assert examine([odd_column]) == 2
    found = findings.find_odd(odd_column, near=2)
    assert (found.identities, found.views) == (28, 56)
    for start, key in (
        ("dark", "test-00000020 view_00 (0)"),
        ("bright", "test-00000026 view_00 (1)"),
        ("hardly a head", "test-00000021 view_00 (0)"),
        ("nothing but head", "test-00000022 view_00 (1)"),
        ("depth is non-finite", "test-00000024 view_00 (non_finite)"),
        ("depth is constant", "test-00000025 view_00 (constant)"),
    ):
        assert (flag(found, start).count, flag(found, start).worst) == (1, [key])
    assert flag(found, "does not decode").count == 0
    assert flag(found, "clipped").worst == [
        f"test-000000{seed} view_00 ({share})" for seed, share in ((20, 1), (26, 1), (22, 0.75))
    ]
    assert {worst.split()[0] for worst in flag(found, "blurred").worst} == {
        "test-00000020", "test-00000023", "test-00000026"
    }  # fmt: skip
    pairs = flag(found, "near duplicates")
    assert "1 across splits" in pairs.title
    assert pairs.worst == ["test-00000027 and train-00000003 (0 bits)"]
    text = findings.as_text(found)
    assert "  depth is constant: 1\n    test-00000025 view_00 (constant)" in text
    assert "does not decode: none" in text


def test_a_sound_column_has_no_flags(tmp_path: Path) -> None:
    write_samples(tmp_path / "render", "train-00000", {seed: {} for seed in range(12)})
    examine([tmp_path / "render"])
    found = findings.find_odd(tmp_path / "render", near=4)
    assert [one.title for one in found.flags if one.count] == []
    assert found.spreads["coverage"] == (0.25, 0.25, 0.25)


def test_too_many_pairs_are_said_and_the_rest_is_reported(
    odd_column: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    examine([odd_column])
    for module in ("near", "findings"):
        monkeypatch.setattr(f"pipeline.datasets.{module}.PAIR_LIMIT", 0)
    found = findings.find_odd(odd_column, near=2)
    assert flag(found, "near duplicates").worst == ["more than 0; ask for fewer bits by --near"]
    assert flag(found, "dark").count == 1


def test_damage_is_a_row_not_an_end(columns: Path) -> None:
    column = columns / "render"
    tar = column / "train-00001.tar"
    data = bytearray(tar.read_bytes())
    data[600] ^= 1  # in the first image of the first sample
    second = data.index(b"train-00000004.view_00.rgb.png")
    data[second] = 0  # its header
    tar.write_bytes(bytes(data[: data.index(b"train-00000005.view_01")]))
    examine([column])
    rows = pq.read_table(quality_path(column, "train-00001")).to_pylist()
    errors = [(row["key"][-1], row["view"]) for row in rows if row["error"]]
    assert errors == [("3", 0), ("4", None), ("5", None)]
    assert "view_00" not in rows[0]["error"]
    assert rows[0]["luma"] is None
    assert rows[1]["luma"] is not None
    assert "cut off" in rows[-1]["error"]
    found = findings.find_odd(column, near=0)
    assert flag(found, "does not decode").count == 3
    assert flag(found, "does not decode").worst[1].startswith("train-00000004 (render/train-00")


def test_a_json_that_does_not_decode_is_told(tmp_path: Path) -> None:
    members = make_sample("train-00000001", 1) | {"json": b"{"}
    forge_shard(tmp_path / "render", "train-00000", [("train-00000001", members)])
    examine([tmp_path / "render"])
    rows = pq.read_table(quality_path(tmp_path / "render", "train-00000")).to_pylist()
    assert ["json: does not decode" in row["error"] for row in rows] == [True, True]
    assert [row["front"] for row in rows] == [True, False]


def test_rows_have_the_schema_and_lie_apart(columns: Path) -> None:
    column = columns / "render"
    examine([column, columns / "stylized-ink"])
    table = pq.read_table(quality_path(column, "train-00000"))
    assert table.schema.equals(QUALITY)
    assert table.schema.metadata[VERSION_KEY] == b"1"
    assert table["view"].to_pylist() == [0, 1, 0, 1]
    assert table["front"].to_pylist() == [True, False, True, False]
    assert [s is not None for s in table["spectrum"].to_pylist()] == [True, False, True, False]
    assert not verify_column(column)
    assert len(Column(column)) == 7


def test_what_is_done_is_not_done_again_unless_the_tar_changed(columns: Path) -> None:
    column = columns / "render"
    assert examine([column]) == 3
    quality_path(column, "test-00000").unlink()
    path = quality_path(column, "train-00001")
    path.write_bytes(path.read_bytes()[:-4])
    assert examine([column]) == 2
    assert examine([column]) == 0
    write_column(column, {"train-00000": [1, 2]})
    assert examine([column]) == 1
    assert findings.find_odd(column, near=0).identities == 7


def test_latents_have_no_pictures_to_judge(tmp_path: Path) -> None:
    column = tmp_path / "latents-render"
    with ShardWriter(column, "train-00000", {}) as writer:
        latent = codecs.encode_array(np.zeros((4, 8, 8), np.float16))
        members = {"view_00.latent.npy": latent, "json": codecs.encode_json({"views": []})}
        writer.add("train-00000001", members, seed=1, split="train", seconds=0.1)
    examine([column])
    found = findings.find_odd(column, near=4)
    assert (found.views, found.spreads) == (1, {})
    assert not any(one.count for one in found.flags)


def test_workers_change_no_byte(
    odd_column: Path, contents: Callable[[Path], dict[str, bytes]]
) -> None:
    examine([odd_column])
    alone = contents(odd_column / "quality")
    for path in (odd_column / "quality").iterdir():
        path.unlink()
    assert examine([odd_column], workers=2) == 2
    assert contents(odd_column / "quality") == alone


def test_measures_are_of_the_head_alone() -> None:
    image = np.full((8, 8, 3), 255, np.uint8)
    head = np.zeros((8, 8), bool)
    assert measure(image, head) == {}
    head[2:6, 2:6] = True
    image[head] = 100
    image[2, 2] = 0
    found = measure(image, head)
    assert found["luma"] == pytest.approx(15 / 16 * 100 / 255)
    assert found["dark"] == 1 / 16
    assert found["bright"] == 0
    corner = np.zeros((8, 8), bool)
    corner[0, 0] = True
    assert "sharpness" not in measure(image, corner)
    checks = (np.indices((8, 8)).sum(0) % 2 * 200)[..., None].repeat(3, 2).astype(np.uint8)
    assert measure(checks, head)["sharpness"] == pytest.approx((4 * 200) ** 2, rel=1e-5)


def test_depths() -> None:
    ramp = np.arange(16, dtype=np.float32).reshape(4, 4)
    assert describe_depth(ramp) == "ok"
    assert describe_depth(ramp * 0 + 3) == "constant"
    ramp[0, 0] = np.inf
    assert describe_depth(ramp) == "non_finite"
    assert describe_depth(np.full((4, 4), 65535, np.uint16)) == "constant"


def test_the_front_is_where_the_camera_says() -> None:
    views = [make_view(view, 8) for view in range(8)]
    assert find_front({"views": views}) == 0
    assert find_front({"views": [*views[3:], *views[:3]]}) == 5
    for unknown in ({"views": [{"name": "view_00"}]}, {}, None, {"views": []}, {"views": [1]}):
        assert find_front(unknown) == 0


def test_no_torch_is_loaded() -> None:
    modules = "findings", "merge", "quality", "reshard", "stats", "workers"
    imports = ", ".join(f"pipeline.datasets.{name}" for name in modules)
    code = f"import sys, pipeline.stages.verify, {imports}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
