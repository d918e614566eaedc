"""Benchmarks that a user can run: `diffstyle360 bench VERB`."""

import click

from pipeline.bench.care import care
from pipeline.bench.render import random_generator, render
from pipeline.bench.shards import shards
from pipeline.bench.stylize import stylize
from pipeline.bench.workflow import workflow

__all__ = ["bench", "random_generator"]


@click.group()
def bench() -> None:
    """Measure this machine: each prints a table, and writes JSON where asked."""


for command in (care, render, shards, stylize, workflow):
    bench.add_command(command)
