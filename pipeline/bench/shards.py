"""`diffstyle360 bench shards`: encoders and the shard writer, beside what others do."""

import io
import os
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
from PIL import Image

from pipeline.bench.figures import json_option, median_seconds, show
from pipeline.shards import codecs
from pipeline.shards.verify import verify_shard
from pipeline.shards.writer import ShardWriter


@click.command()
@click.option("--size", default=512, show_default=True, help="Pixels along a side.")
@json_option
def shards(size: int, json_path: Path | None) -> None:
    """Encoders beside Pillow's, and a shard written and verified beside a plain tar of it."""
    image = _photo_like(size)
    depth = np.linspace(2.3, 3.2, size * size, dtype=np.float32).reshape(size, size)
    encoders: dict[str, Callable[[], bytes]] = {
        "rgb png (fpng)": lambda: codecs.encode_rgb(image, "png"),
        "rgb png, Pillow level 1": lambda: _pillow_png(image, 1),
        "rgb png, Pillow level 6": lambda: _pillow_png(image, 6),
        "rgb webp lossless": lambda: codecs.encode_rgb(image, "webp"),
        "rgb jpeg q95": lambda: codecs.encode_rgb(image, "jpeg"),
        "depth png16": lambda: codecs.encode_depth(depth, 2.25, 3.3, "png16"),
        "depth npy": lambda: codecs.encode_depth(depth, 2.25, 3.3, "npy"),
    }
    figures = {
        name: {"ms": 1e3 * median_seconds(encode), "KiB": len(encode()) / 1024}
        for name, encode in encoders.items()
    }
    show(figures | _time_shard(codecs.encode_rgb(image, "png")), json_path)


def _time_shard(member: bytes, samples: int = 16, views: int = 32) -> dict[str, dict[str, float]]:
    """MB/s of writing a shard of such members, of a plain tar of the same, and of verifying."""
    megabytes = samples * views * len(member) / 1e6
    members = {f"view_{view:02d}.rgb.png": member for view in range(views)} | {"json": b"{}"}

    with tempfile.TemporaryDirectory() as folder:

        def write_shard() -> None:
            with ShardWriter(folder, "bench-00000", {}) as writer:
                for index in range(samples):
                    key = f"bench-{index:08d}"
                    writer.add(key, members, seed=0, split="bench", seconds=0.0)

        def write_plain() -> None:
            with tarfile.open(Path(folder) / "plain.tar", "w") as tar:
                for index in range(samples):
                    for name, data in members.items():
                        info = tarfile.TarInfo(f"bench-{index:08d}.{name}")
                        info.size = len(data)
                        tar.addfile(info, io.BytesIO(data))
            with (Path(folder) / "plain.tar").open("rb") as file:
                os.fsync(file.fileno())

        timed = {
            "shard written, hashed, indexed": median_seconds(write_shard, 3),
            "plain tarfile, synced": median_seconds(write_plain, 3),
            "shard verified (all decoded)": median_seconds(
                lambda: verify_shard(folder, "bench-00000"), 1
            ),
        }
    return {name: {"MB/s": megabytes / seconds} for name, seconds in timed.items()}


def _photo_like(size: int) -> np.ndarray:
    """Smooth shading with a little noise, as a rendered head has: [size, size, 3] uint8."""
    y, x = np.mgrid[:size, :size] / size
    smooth = np.stack([x, y, (x + y) / 2], axis=-1) * 200
    noise = np.random.default_rng(0).normal(0, 2, smooth.shape)
    return np.clip(smooth + noise + 20, 0, 255).astype(np.uint8)


def _pillow_png(image: np.ndarray, level: int) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(image).save(sink, "PNG", compress_level=level)
    return sink.getvalue()
