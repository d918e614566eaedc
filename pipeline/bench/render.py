"""`diffstyle360 bench render`: the kernels beside the reference, stage by stage and end to end."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from pipeline.bench.figures import json_option, median_seconds, show
from pipeline.tools import device_option

WAYS = {"reference": ("reference", "exact"), "exact": ("auto", "exact"), "fast": ("auto", "fast")}
SAMPLES, VIEWS = 2, 8  # of the shard that is rendered end to end


@click.command()
@click.argument("family", type=click.Choice(["eg3d", "panohead", "spherehead"]))
@click.option("--small", is_flag=True, help="A 2 M parameter model with images of 128.")
@click.option("--threads", type=click.IntRange(1), help="On a CPU; else as many as cores.")
@click.option("--runs", default=3, show_default=True, help="Timings of each; their median counts.")
@device_option
@json_option
def render(
    family: str, small: bool, threads: int | None, runs: int, device: str, json_path: Path | None
) -> None:
    """A generator of the published size (512 px, 48 + 48 samples) with random weights.

    Each stage by the reference (plain PyTorch) and by the kernels, exact and fast, in one run: how
    long it takes, how many times faster that is, and how far images are from the reference's; a
    shard rendered, encoded and written, by one thread as the stage does; and what this machine can
    do at most. Random densities are fog in which every sample counts, the worst case; solid heads
    stop rays early.
    """
    import torch

    from pipeline.bench.ceilings import measure_ceilings
    from pipeline.devices import RENDER_THREADS, open_device

    threads = threads or torch.get_num_threads()
    where = open_device(device, threads)
    generator = random_generator(family, small).to(where)
    figures: dict[str, dict[str, float]] = {}
    with torch.inference_mode():
        ceilings = measure_ceilings(where)
        for name, rate in ceilings.items():
            figures[f"this machine: {name}"] = rate
        images, seconds, work = {}, {}, _count_work(generator, where)
        for way, (impl, precision) in WAYS.items():
            images[way], seconds[way] = _time_stages(generator, where, impl, precision, runs)
        for stage in seconds["reference"]:
            for way in WAYS:
                figures[f"{stage}, {way}"] = _rates(stage, way, seconds, work, ceilings)
        for way in ("exact", "fast"):
            figures[f"image, {way} beside reference"] = _difference(
                images[way]["image"], images["reference"]["image"]
            )
        figures["view: encoded"] = {
            "s": median_seconds(lambda: _encode(generator, images["exact"]))
        }
    open_device(device, RENDER_THREADS)
    figures |= _end_to_end(generator, where, small)
    if where.type == "cuda":
        figures["GPU memory, at most"] = {"MB": torch.cuda.max_memory_allocated(where) / 1e6}
    ops = ", ".join(f"{op} {impl}" for op, impl in generator.implementations.items())
    show(figures, json_path, f"{family} on {where.type}, {threads} threads, {ops}")


def _time_stages(
    generator: Any, where: Any, impl: str, precision: str, runs: int
) -> tuple[Any, dict[str, float]]:
    """One view, and the seconds of each stage."""
    import torch

    from eg3d_renderer.ops import native

    def timed(call: Callable[[], Any]) -> float:
        def whole() -> None:
            call()
            if where.type == "cuda":
                torch.cuda.synchronize(where)

        whole()  # compiled, and its memory taken, beforehand
        return median_seconds(whole, runs)

    generator.set_precision(precision)
    with native.chosen(impl):
        seconds = {name: timed(call) for name, call in _stages(generator, where).items()}
        ws, planes, label = _identity(generator, where)
        view = generator.render(planes, ws, label)
    generator.set_precision("exact")
    return view, seconds


def _identity(generator: Any, where: Any) -> tuple[Any, Any, Any]:
    """ws, planes and the label of a frontal camera."""
    from eg3d_renderer import cameras, latents

    ws = generator.mapping(latents([17], generator.z_dim).to(where), truncation_psi=0.7)
    return ws, generator.planes(ws), cameras.orbit(1, **generator.camera).to(where)


def _stages(generator: Any, where: Any) -> dict[str, Callable[[], Any]]:
    """What is timed, by name; an identity's part first, then a view's and its two halves."""
    import torch

    from eg3d_renderer.views import march_camera, render_views

    ws, planes, label = _identity(generator, where)
    size = generator.neural_rendering_resolution
    identity = generator.prepare(planes, ws, size)
    features = torch.randn(1, 32, size, size, device=where)
    return {
        "identity: mapping, planes": lambda: generator.planes(ws),
        "identity: prepared to render": lambda: generator.prepare(planes, ws, size),
        "view": lambda: render_views(generator, identity, label, size, None, None),
        "view: marching": lambda: march_camera(generator, identity, label, size),
        "view: super-resolution": lambda: generator.superresolution(
            features[:, :3], features, identity.weights
        ),
    }


def _count_work(generator: Any, where: Any) -> dict[str, float]:
    """GFLOP of each stage, as the reference does it."""
    from torch.utils.flop_counter import FlopCounterMode

    from eg3d_renderer.ops import native

    work = {}
    with native.chosen("reference"):
        for name, call in _stages(generator, where).items():
            with FlopCounterMode(display=False) as counter:
                call()
            work[name] = counter.get_total_flops() / 1e9
    return work


def _rates(
    stage: str,
    way: str,
    seconds: dict[str, dict[str, float]],
    work: dict[str, float],
    ceilings: dict[str, dict[str, float]],
) -> dict[str, float]:
    """Seconds, times the reference, and the reference's work in that time over the machine's best
    rate: above 100 % where the kernel needs less work."""
    taken = seconds[way][stage]
    dtype = "float32" if way != "fast" else "float16"
    best = max(rate["GFLOP/s"] for name, rate in ceilings.items() if name.endswith(dtype))
    return {
        "s": taken,
        "x reference": seconds["reference"][stage] / taken,
        "% of the best rate": 100 * work[stage] / taken / best,
    }


def _difference(image: Any, reference: Any) -> dict[str, float]:
    """PSNR over the reference's range, and the greatest difference in that range."""
    import torch

    difference = (image - reference).abs()
    extent = reference.max() - reference.min()
    return {
        "dB PSNR": float(20 * torch.log10(extent / difference.square().mean().sqrt())),
        "of the range, at most": float(difference.max() / extent),
    }


def _encode(generator: Any, view: dict[str, Any]) -> None:
    """The members of one view as the shards have them by default: PNG, 16-bit depth, mask."""
    from pipeline.shards import codecs

    image, depth, mask = (view[f"image{name}"][0].cpu() for name in ("", "_depth", "_mask"))
    s = generator.settings
    codecs.encode_rgb(codecs.to_uint8(image), "png")
    codecs.encode_depth(depth[0].numpy(), s.start, s.end + 1, "png16")
    codecs.encode_mask(mask[0].clamp(0, 1).numpy())


def _end_to_end(generator: Any, where: Any, small: bool) -> dict[str, dict[str, float]]:
    """A shard of a few identities: rendered, encoded, written; views per second."""
    from eg3d_renderer.checkpoints import save_checkpoint
    from eg3d_renderer.checkpoints.checkpoint import Checkpoint
    from manifests.schemas import OK
    from pipeline.requests import open_request
    from pipeline.shards.records import read_records
    from pipeline.stages.plan import plan_run
    from pipeline.stages.render import render_shard

    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "model"
        kwargs = generator_kwargs(small)
        state = {name: t.cpu().contiguous() for name, t in generator.state_dict().items()}
        resolution = kwargs.pop("neural_rendering_resolution")
        rendering = kwargs.pop("rendering_kwargs")
        save_checkpoint(
            Checkpoint(generator.family, kwargs, rendering, resolution, None, state), source
        )
        for precision in ("exact", "fast"):
            request = {
                "generator": {"source": str(source), "precision": precision},
                "identities": {"train": f"0-{SAMPLES - 1}"},
                "rig": {"kind": "orbit", "views": VIEWS},
            }
            run = open_request(request, Path(folder) / precision)
            plan_run(run)
            began = time.perf_counter()
            render_shard(run, "render", "train-00000", where)
            wall = time.perf_counter() - began
            rows, _ = read_records(run.column("render") / "train-00000.parquet")
            assert rows["status"].to_pylist() == SAMPLES * [OK]
            making = sum(rows["seconds"].to_pylist())
            figures[f"shard of {SAMPLES} x {VIEWS} views, {precision}"] = {
                "views/s rendered": SAMPLES * VIEWS / making,
                "views/s written": SAMPLES * VIEWS / wall,
            }
    return figures


def generator_kwargs(small: bool) -> dict[str, Any]:
    """Settings of the published size and layout, or small ones for a quick look."""
    return {
        "img_resolution": 128 if small else 512,
        "channel_base": 2048 if small else 32768,
        "channel_max": 32 if small else 512,
        "mapping_kwargs": {"num_layers": 2},
        "sr_num_fp16_res": 4,
        "neural_rendering_resolution": 32 if small else 128,
        "rendering_kwargs": {
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
        },
    }


def random_generator(family: str, small: bool = False) -> Any:
    """A generator of the family in its published layout; small for a quick look."""
    import torch

    from eg3d_renderer import build_generator

    torch.manual_seed(0)
    return build_generator(family, **generator_kwargs(small)).eval().requires_grad_(False)
