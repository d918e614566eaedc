"""Benchmarks that a user can run: `diffstyle360 bench VERB`, a table on the terminal and JSON."""

import io
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import yaml
from PIL import Image

from pipeline.errors import PipelineError
from pipeline.shards import codecs
from pipeline.shards.verify import verify_shard
from pipeline.shards.writer import ShardWriter
from pipeline.tools import device_option

RUNS = 7  # timings of one thing; their median counts

json_option = click.option(
    "--json", "json_path", type=click.Path(path_type=Path), help="Also write the figures here."
)


@click.group()
def bench() -> None:
    """Measure this machine: each prints a table, and writes JSON where asked."""


@bench.command()
@click.option("--shards", default=10_000, show_default=True, help="Shards in the run.")
@click.option(
    "--snakefile", default="Snakefile", show_default=True, type=click.Path(path_type=Path)
)
@json_option
def workflow(shards: int, snakefile: Path, json_path: Path | None) -> None:
    """Time and memory of a dry run, `snakemake -n`, over a large rendering run."""
    if not snakefile.is_file():
        raise PipelineError(f"{snakefile}: not there; run this from the repository, or --snakefile")
    manifest = {
        "name": "bench",
        "seed": 0,
        "generator": {"source": "procedural"},
        "identities": {"train": shards},
        "rig": {"views": 32},
        "outputs": {"resolution": 512},
        "shards": {"identities": 1},
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bench.yaml"
        path.write_text(yaml.safe_dump(manifest))
        command = [sys.executable, "-m", "snakemake", "-n", "--quiet", "all"]
        command += ["--snakefile", str(snakefile), "--config", f"manifest={path}", f"out={folder}"]
        began = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True)
        seconds = time.perf_counter() - began
    if done.returncode:
        raise PipelineError(f"snakemake -n failed: {done.stderr.strip().splitlines()[-1]}")
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * _maxrss_unit() / 1e6
    _show({f"dry run of {shards} shards": {"seconds": seconds, "peak MB": peak}}, json_path)


@bench.command()
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
        name: {"ms": 1e3 * _median_seconds(encode), "KiB": len(encode()) / 1024}
        for name, encode in encoders.items()
    }
    _show(figures | _time_shard(codecs.encode_rgb(image, "png")), json_path)


@bench.command()
@click.argument("family", type=click.Choice(["eg3d", "panohead", "spherehead"]))
@click.option("--small", is_flag=True, help="A 2 M parameter model with images of 128.")
@device_option
@json_option
def render(family: str, small: bool, device: str, json_path: Path | None) -> None:
    """A generator of the published size (512 px, 48 + 48 samples) with random weights.

    Seconds for an identity, for one of its views, and for the steps of that view; and the memory
    that it all took. As many CPU threads as the render stage has.
    """
    import torch

    from eg3d_renderer import cameras, latents
    from eg3d_renderer.marching.depths import draw_depths
    from eg3d_renderer.marching.rays import march_view
    from eg3d_renderer.triplane import CPU_RAYS, together
    from pipeline.devices import RENDER_THREADS, open_device

    where = open_device(device, RENDER_THREADS)
    generator = random_generator(family, small).to(where)
    size = generator.neural_rendering_resolution
    label = cameras.orbit(1, **generator.camera).to(where)

    def finish(value: Any) -> Any:
        if where.type == "cuda":
            torch.cuda.synchronize()
        return value

    with torch.inference_mode():
        ws = generator.mapping(latents([17], generator.z_dim).to(where), truncation_psi=0.7)
        planes = generator.planes(ws)
        weights = generator.superresolution.modulate(ws)
        field, s = generator.field(planes[0]), generator.settings
        origins, directions = (t[0] for t in cameras.rays(label, size))
        draws = draw_depths(None, len(origins), s.samples, s.fine_samples, where)
        chunk = together(origins, CPU_RAYS, len(origins))
        features = torch.zeros(1, 32, size, size, device=where)
        steps: dict[str, Callable[[], Any]] = {
            "identity: mapping, planes": lambda: generator.planes(ws),
            "view": lambda: generator.render(planes, ws, label),
            "view: marching": lambda: march_view(field, origins, directions, s, draws, chunk),
            "view: super-resolution": lambda: generator.superresolution(
                features[:, :3], features, weights
            ),
        }
        figures = {
            name: {"seconds": _median_seconds(lambda step=step: finish(step()), 3)}  # type: ignore[misc]
            for name, step in steps.items()
        }
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _maxrss_unit()
    if where.type == "cuda":
        peak = torch.cuda.max_memory_allocated(where)
    _show(figures | {"memory": {"MB": peak / 1e6}}, json_path)


def random_generator(family: str, small: bool = False) -> Any:
    """A generator of the family in its published layout; small for a quick look."""
    import torch

    from eg3d_renderer import build_generator

    rendering = {
        "superresolution_module": f"SuperresolutionHybrid{'2X' if small else '8XDC'}",
        "depth_resolution": 12 if small else 48,
        "depth_resolution_importance": 12 if small else 48,
        "ray_start": 2.25,
        "ray_end": 3.3,
        "box_warp": 1,
        "c_scale": 1,
        "decoder_activation": "none",
        "use_torgb_raw": True,
        "use_background": True,
        "triplane_depth": 3,
        "triplane_size": 64 if small else 256,
    }
    torch.manual_seed(0)
    generator = build_generator(
        family,
        img_resolution=128 if small else 512,
        channel_base=2048 if small else 32768,
        channel_max=32 if small else 512,
        mapping_kwargs={"num_layers": 2},
        sr_num_fp16_res=4,
        neural_rendering_resolution=32 if small else 128,
        rendering_kwargs=rendering,
    )
    return generator.eval().requires_grad_(False)


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
            "shard written, hashed, indexed": _median_seconds(write_shard, 3),
            "plain tarfile, synced": _median_seconds(write_plain, 3),
            "shard verified (all decoded)": _median_seconds(
                lambda: verify_shard(folder, "bench-00000"), 1
            ),
        }
    return {name: {"MB/s": megabytes / seconds} for name, seconds in timed.items()}


def _median_seconds(call: Callable[[], Any], runs: int = RUNS) -> float:
    times = []
    for _ in range(runs):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


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


def _maxrss_unit() -> int:
    return 1 if sys.platform == "darwin" else 1024


def _show(figures: dict[str, dict[str, float]], json_path: Path | None) -> None:
    machine = f"{_processor()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    print(machine)
    for name, values in figures.items():
        told = "  ".join(f"{value:10.2f} {unit}" for unit, value in values.items())
        print(f"  {name:32}{told}")
    if json_path:
        json_path.write_text(json.dumps({"machine": machine, "figures": figures}, indent=1) + "\n")


def _processor() -> str:
    try:
        lines: Sequence[str] = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = ()
    models = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor() or platform.machine())
