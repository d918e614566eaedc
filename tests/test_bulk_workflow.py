"""Bulk stylization under real Snakemake: every image once, whatever is broken and killed.

The larger claim is not made by default: ``BULK_IMAGES=1000 pytest tests/test_bulk_workflow.py``.
"""

import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.folders import BulkFolder, open_folder
from pipeline.shards.records import read_records
from pipeline.shards.writer import is_committed
from tests.pipeline import odd_images
from tests.pipeline.odd_images import encode, picture
from tests.pipeline.stages.test_bulk_run import files
from tests.test_workflow import ROOT, make, make_until, snakemake

IMAGES = int(os.environ.get("BULK_IMAGES", "0"))
FORMATS = (("png", {}), ("jpg", {"quality": 30}), ("webp", {"lossless": True}), ("bmp", {}))
WAYS = (  # to be broken
    "cut.jpg", "empty.png", "text.png", "pixel.png", "cut.png", "cut.webp", "changed.png",
    "huge.png", "floats.tif", "head-only.jpg",
)  # fmt: skip
NOTED = 2.0  # seconds after which Snakemake has noted that a job ended
Reasons = dict[str, str]


def write_images(folder: Path, good: int, broken: int) -> Reasons:
    """Images of several kinds with broken ones among them; by key, how each must end."""
    folder.mkdir()
    reasons = {}
    bad = odd_images.bad()
    step = max(1, good // max(broken, 1))
    for index in range(good):
        suffix, options = FORMATS[index % len(FORMATS)]
        kind = {"jpg": "JPEG"}.get(suffix, suffix.upper())
        image = picture(24 + index % 17, 24 + index % 11, seed=index)
        (folder / f"{index:05d}.{suffix}").write_bytes(encode(image, kind, **options))
        reasons[f"{index:05d}"] = "ok"
    for index in range(broken):
        name = WAYS[index % len(WAYS)]
        key = f"{index * step:05d}-broken"
        (folder / f"{key}.{name.partition('.')[2]}").write_bytes(bad[name][0])
        reasons[key] = bad[name][1]
    return reasons


def write_manifest(tmp_path: Path, model: Path, **changes: Any) -> Path:
    for seed, name in enumerate(("ink", "oil")):
        (tmp_path / f"{name}.png").write_bytes(encode(picture(seed=90 + seed), "PNG"))
    content = {
        "name": "inked", "content": "in", "styles": ["ink.png", "oil.png"], "model": str(model),
        "generator": "procedural", "views": 2, "sampling": {"steps": 1}, "allow_failed": 0.5,
    }  # fmt: skip
    path = tmp_path / "bulk.yaml"
    path.write_text(yaml.safe_dump(content | changes))
    return path


def stylize_by_options(manifest: Path, out: Path) -> None:
    """What the manifest asks for, by the command line without one."""
    asked, base = yaml.safe_load(manifest.read_text()), manifest.parent
    command = [
        sys.executable,
        "-m",
        "pipeline.cli",
        "stylize",
        "--content",
        base / asked["content"],
    ]
    for style in asked["styles"]:
        command += ["--style", base / style]
    for option in ("model", "generator", "views", "allow_failed", "shard_size"):
        command += [f"--{option.replace('_', '-')}", asked[option]]
    command += ["--steps", asked["sampling"]["steps"], "--out", out]
    done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def made(folder: BulkFolder) -> dict[tuple[str, str], int]:
    """When each shard was committed that Snakemake knows to be done."""
    found = {}
    for path in folder.path.glob("benchmarks/stylize/*/*.tsv"):  # written when a job has ended
        parquet = folder.column(path.parent.name) / f"{path.stem}.parquet"
        if time.time() - path.stat().st_mtime > NOTED and is_committed(parquet.parent, path.stem):
            found[path.parent.name, path.stem] = parquet.stat().st_mtime_ns
    return found


def statuses(folder: BulkFolder, column: str) -> list[tuple[str, str]]:
    """Key and status of every row of a column."""
    paths = sorted(folder.column(column).glob("*.parquet"))
    tables = [read_records(path, ["key", "status"])[0].to_pylist() for path in paths]
    return [(row["key"], row["status"]) for table in tables for row in table]


def check(folder: BulkFolder, reasons: Reasons) -> None:
    """Every image is there once in every style, and ended as it must."""
    assert folder.report_path.is_file()
    assert not list(folder.path.rglob(".*.tmp"))
    for column in folder.shards:
        ended = statuses(folder, column)
        assert Counter(key for key, _ in ended) == Counter(reasons.keys())
        assert dict(ended) == reasons


def kill_and_resume(manifest: Path, out: Path, kills: int, cores: int) -> BulkFolder:
    """Make a run that is killed, each time when more is committed and a shard is being written."""
    folder = open_folder(manifest, out)
    assert isinstance(folder, BulkFolder)
    kept: dict[tuple[str, str], int] = {}

    def further() -> bool:
        found = len(made(folder))
        writing = any(folder.path.glob("stylized-*/.*.tar.*.tmp"))
        return found > len(kept) and (writing or found > len(kept) + 1)

    for _ in range(kills):
        make_until(manifest, out, further, cores)
        now = made(folder)
        assert kept.items() <= now.items()  # what was committed is not made again
        kept = now
    assert not folder.report_path.exists()
    make(manifest, out, "--cores", str(cores), "--quiet", "all")
    time.sleep(NOTED)
    now = made(folder)
    assert kept.items() <= now.items()
    assert len(now) == sum(map(len, folder.shards.values()))
    return folder


@pytest.mark.long
def test_every_image_is_made_once_though_the_run_is_killed(
    tmp_path: Path, tiny_model: Path
) -> None:
    reasons = write_images(tmp_path / "in", good=8, broken=4)
    assert len(set(reasons.values())) == 5
    manifest = write_manifest(tmp_path, tiny_model, shard_size=4)
    folder = kill_and_resume(manifest, tmp_path / "runs", kills=1, cores=2)
    assert sum(map(len, folder.shards.values())) == 2 * 3
    check(folder, reasons)

    make(manifest, tmp_path / "smooth", "--cores", "2", "--quiet", "all")
    smooth = tmp_path / "smooth" / folder.path.name
    stylize_by_options(manifest, tmp_path / "out")
    assert len(files(folder.path)) == 2 * 3 * 2
    assert files(folder.path) == files(smooth) == files(tmp_path / "out")

    again = make(manifest, tmp_path / "runs", "--cores", "1")
    assert "Nothing to be done" in again
    assert "has changed" not in again
    (tmp_path / "in" / "more.png").write_bytes(encode(picture(seed=50), "PNG"))
    again = make(manifest, tmp_path / "runs", "--cores", "1")
    assert "Nothing to be done" in again
    assert f"{tmp_path / 'in'} has changed since this run was planned" in again


def test_more_failures_than_allowed_end_the_run(tmp_path: Path, tiny_model: Path) -> None:
    """With the reason on the screen, and no report that would look like success."""
    write_images(tmp_path / "in", good=1, broken=1)
    manifest = write_manifest(tmp_path, tiny_model, styles=["ink.png"], allow_failed=0.4)
    done = subprocess.run(
        snakemake(manifest, tmp_path / "runs", "--cores", "1"),
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode != 0
    told = "1 of 2 samples failed, more than allow_failed 0.4: 1 truncated (first 00000-broken: "
    assert told in done.stderr
    folder = open_folder(manifest, tmp_path / "runs")
    assert not folder.report_path.exists()
    manifest.write_text(manifest.read_text().replace("0.4", "0.5"))
    make(manifest, tmp_path / "runs", "--cores", "1", "--quiet", "all")
    assert folder.report_path.is_file()


def test_a_wrong_bulk_manifest_is_one_line(tmp_path: Path, tiny_model: Path) -> None:
    for changes, shards, told in [
        ({"stlyes": []}, (), "stlyes: unknown key; did you mean 'styles'?"),
        ({}, ("shards=3",), "shards= is of a run; a bulk manifest makes all it has"),
    ]:
        command = snakemake(write_manifest(tmp_path, tiny_model, **changes), tmp_path, "-n")
        done = subprocess.run([*command, *shards], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode != 0
        assert told in done.stderr


@pytest.mark.long
@pytest.mark.skipif(not IMAGES, reason="a larger claim, of minutes: set BULK_IMAGES, e.g. to 1000")
def test_many_images_by_four_jobs_killed_twice(tmp_path: Path, tiny_model: Path) -> None:
    broken = max(len(WAYS), IMAGES // 20)
    reasons = write_images(tmp_path / "in", IMAGES - broken, broken)
    size = max(1, IMAGES // 16)
    manifest = write_manifest(tmp_path, tiny_model, styles=["ink.png"], shard_size=size)
    folder = kill_and_resume(manifest, tmp_path / "runs", kills=2, cores=4)
    check(folder, reasons)
    stylize_by_options(manifest, tmp_path / "out")
    assert files(folder.path) == files(tmp_path / "out")
