"""`diffstyle360 bench stylize`: the sampler beside its plain form, with equal outputs."""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from pipeline.bench.figures import json_option, show
from pipeline.tools import device_option


@click.command()
@click.argument("size", type=click.Choice(["demo", "sd15"]))
@click.option("--views", default=32, show_default=True, help="Around the circle.")
@click.option("--steps", default=20, show_default=True, help="Of DDIM.")
@click.option("--identities", default=8, show_default=True)
@click.option("--styles", default=2, show_default=True)
@click.option("--guidance", default=3.0, show_default=True, help="1: a single pass.")
@click.option("--threads", type=click.IntRange(1), help="On a CPU; else as many as cores.")
@click.option(
    "--precision", type=click.Choice(["exact", "fast"]), default="exact", show_default=True,
    help="Of both forms; fast is bfloat16.",
)  # fmt: skip
@click.option(
    "--compile", "compiled", is_flag=True, help="The sampler's denoiser by torch.compile."
)
@device_option
@json_option
def stylize(
    size: str,
    views: int,
    steps: int,
    identities: int,
    styles: int,
    guidance: float,
    threads: int | None,
    precision: str,
    compiled: bool,
    device: str,
    json_path: Path | None,
) -> None:
    """A stylizer of the demo's size, or of Stable Diffusion 1.5's, with random weights.

    The plain form (`pipeline.bench.plain`) is the method by its equations: identity by identity,
    style by style, window by window and pass by pass, with the references read and the hint
    embedded anew each time, keys and values of all tokens for each view, and softmax over explicit
    logits; "fused" is the same with the sampler's attention. The sampler reads content once a step
    and each style once for all, runs the camera net once a view, and the windows of all passes and
    identities side by side.
    """
    import torch

    from pipeline.bench.ceilings import measure_ceilings
    from pipeline.bench.plain import stylize_plainly
    from pipeline.devices import open_device
    from stylize import Sampling

    where = open_device(device, threads or torch.get_num_threads())
    model = random_stylizer(size, where, precision)
    images = _random_images(model, identities, styles, views)
    with torch.inference_mode():
        rates = measure_ceilings(where)
    sampling = Sampling(steps=steps, content_guidance=guidance, style_guidance=guidance)
    seconds: dict[str, float] = {}
    made: dict[str, torch.Tensor] = {}

    def run(form: str, call: Callable[[], torch.Tensor]) -> None:
        made[form], seconds[form] = _time(call, where)

    run("plain", lambda: stylize_plainly(model, **images, sampling=sampling))
    run("plain, fused", lambda: stylize_plainly(model, **images, sampling=sampling, fused=True))
    if compiled:
        model.denoiser.compile()
        _fast(model, images, dataclasses.replace(sampling, steps=1))
    if where.type == "cuda":
        torch.cuda.reset_peak_memory_stats(where)
    run("sampler", lambda: _fast(model, images, sampling))
    work = _count(lambda few: _fast(model, images, few), sampling)
    half = "float16" if where.type == "cuda" else "bfloat16"
    name = f"matrix product, {'float32' if precision == 'exact' else half}"
    count = identities * styles
    figures: dict[str, dict[str, float]] = {f"this machine: {name}": rates[name]}
    for form, taken in seconds.items():
        figures[form] = {
            "s": taken,
            "s/identity": taken / count,
            "ms/view": 1e3 * taken / count / views,
        }
    for form in ("plain", "plain, fused"):
        figures[f"sampler beside {form}"] = {
            "times faster": seconds[form] / seconds["sampler"],
            "largest difference": float((made["sampler"] - made[form]).abs().max()),
        }
    figures["sampler: products and convolutions"] = {
        "GFLOP/s": work / seconds["sampler"] / 1e9,
        "% of this machine": 100 * work / seconds["sampler"] / 1e9 / rates[name]["GFLOP/s"],
    }
    if where.type == "cuda":
        figures["GPU memory, at most"] = {"MB": torch.cuda.max_memory_allocated(where) / 1e6}
    told = f"{size} on {where.type}, {views} views, {steps} steps, {styles} x {identities} columns"
    show(figures, json_path, f"{told}, guidance {guidance:g}, {precision}")


def random_stylizer(size: str, device: Any, precision: str = "exact") -> Any:
    """A stylizer of a published size whose every part has an effect."""
    import torch

    import stylize

    published = dataclasses.replace(stylize.sd15(), back_view=False)  # it takes no part here
    config = stylize.demo() if size == "demo" else published
    dtype = torch.bfloat16 if precision == "fast" else torch.float32
    model = stylize.DiffStyle360(config).to(device, dtype).eval()
    generator = torch.Generator(device).manual_seed(0)
    for parameter in model.parameters():
        if not parameter.any():  # zero at the start of training: motion, gates, the camera's exits
            parameter.data.normal_(std=0.02, generator=generator)
    return model


def _random_images(model: Any, identities: int, styles: int, views: int) -> dict[str, Any]:
    """Smooth pictures: content views [I, V, 3, S, S] and style images [K, 3, S, S] in [-1, 1]."""
    import torch
    from torch.nn.functional import interpolate

    size, generator = model.config.image_size, torch.Generator().manual_seed(0)
    device = model.prompt.device

    def draw(count: int) -> torch.Tensor:
        coarse = torch.rand(count, 3, 8, 8, generator=generator) * 2 - 1
        return interpolate(coarse, (size, size), mode="bilinear").to(device)

    content = draw(identities * views).unflatten(0, (identities, views))
    return {"content": content, "styles": draw(styles)}


def _fast(model: Any, images: dict[str, Any], sampling: Any) -> Any:
    """Everything shared: [K, I, V, 3, S, S]."""
    import torch

    from stylize import BankCache, stylize_views

    content = images["content"]
    style_banks, content_banks = BankCache(4 << 30), BankCache(4 << 30)
    return torch.stack(
        [
            stylize_views(
                model, content[:, 0], content[:, content.shape[1] // 2], content, style,
                sampling, range(len(content)), style_banks=style_banks, content_banks=content_banks,
            )
            for style in images["styles"]
        ]
    )  # fmt: skip


def _time(call: Callable[[], Any], device: Any) -> tuple[Any, float]:
    import torch

    began = time.perf_counter()
    result = call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return result, time.perf_counter() - began


def _count(call: Callable[[Any], Any], sampling: Any) -> int:
    """Floating-point operations of matrix products, convolutions and attention; a step's are those
    that the second adds to the first."""
    from torch.utils.flop_counter import FlopCounterMode

    def count(steps: int) -> int:
        with FlopCounterMode(display=False) as counter:
            call(dataclasses.replace(sampling, steps=steps))
        return counter.get_total_flops()

    once = count(1)
    return once + (sampling.steps - 1) * (count(2) - once)
