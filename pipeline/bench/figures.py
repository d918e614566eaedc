"""Timing, and what every benchmark prints: a table on the terminal, JSON where asked."""

import json
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

RUNS = 7  # timings of one thing; their median counts

json_option = click.option(
    "--json", "json_path", type=click.Path(path_type=Path), help="Also write the figures here."
)


def median_seconds(call: Callable[[], Any], runs: int = RUNS) -> float:
    """The median time of some calls, in seconds."""
    times = []
    for _ in range(runs):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def peak_megabytes(who: int = resource.RUSAGE_SELF) -> float:
    """The most memory that this process, or one of its children, has held."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(who).ru_maxrss * unit / 1e6


def show(figures: dict[str, dict[str, float]], json_path: Path | None, device: str = "") -> None:
    """Print a line a figure, each a name and values by unit, under the machine's name."""
    from pipeline.devices import processor_name

    machine = f"{processor_name()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    machine = f"{device}, {machine}" if device else machine
    print(machine)
    for name, values in figures.items():
        told = "  ".join(f"{value:9.3g} {unit}" for unit, value in values.items())
        print(f"  {name:42}{told}")
    if json_path:
        json_path.write_text(json.dumps({"machine": machine, "figures": figures}, indent=1) + "\n")
