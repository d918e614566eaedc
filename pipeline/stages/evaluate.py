"""Evaluate: the stylized columns against the rendered truth, with baselines beside them."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from manifests.schemas import METRICS, SCHEMA_VERSION, VERSION_KEY
from pipeline.console import progress
from pipeline.errors import PipelineError
from pipeline.folders import RunFolder
from pipeline.images import to_model
from pipeline.judges import Judges, Pictures
from pipeline.shards.files import write_whole
from pipeline.shards.reader import Column, read_clip
from pipeline.stages.averages import group_references
from pipeline.stages.measures import ON_HINT, OURS, Label, baselines, measure
from pipeline.stages.rendered import Rendered
from pipeline.stages.sets import Sets
from stylize import metrics


def evaluate_run(folder: RunFolder, judges: Judges | None = None) -> int:
    """Write `metrics.parquet` (schema `manifests.schemas.METRICS`) and return its number of rows.

    Raises PipelineError where the manifest has no stylize section.
    """
    settings = folder.run.stylize
    if settings is None:
        raise PipelineError("the run manifest has no stylize section: nothing to evaluate")
    judges, sets, rendered = judges or Judges(), Sets(), Rendered(folder, settings.split)
    names = settings.references
    columns = {n: Column(folder.column(f"stylized-{n}"), rendered.shards) for n in names}
    rows = []
    for key in progress(rendered.keys, "evaluate", len(rendered.keys)):
        for group in group_references(settings.references):
            outputs = {
                name: read_clip(columns[name], key, range(folder.run.rig.count))
                for name in group
                if key in columns[name]
            }
            if outputs:
                rows += list(_measure_group(rendered, key, outputs, judges, sets))
    rows += list(sets.rows())
    write_metrics(folder.metrics_path, rows)
    return len(rows)


def write_metrics(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """A table of the schema METRICS; what a row lacks is null."""
    metadata = {VERSION_KEY: str(SCHEMA_VERSION).encode()}
    table = pa.Table.from_pylist(list(rows), schema=METRICS.with_metadata(metadata))
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    write_whole(path, sink.getvalue().to_pybytes())


def _measure_group(
    rendered: Rendered, key: str, outputs: dict[str, np.ndarray], judges: Judges, sets: Sets
) -> Iterator[dict[str, Any]]:
    """The rows of one identity and one style image; the baselines stand under every reference."""
    first = next(iter(outputs))
    size = outputs[first].shape[1]
    subject, style = rendered.subject(key, first, size), rendered.style(first)
    methods: dict[Label, Pictures] = {(m, None): p for m, p in baselines(subject).items()}
    for name, views in outputs.items():
        images = to_model(views, size)
        if (on_hint := rendered.on_hint(key, name, size)) is not None:
            methods[ON_HINT, name] = on_hint
        methods[OURS, name] = Pictures(images, metrics.estimate_foreground(images))
    measured = measure(subject, methods, judges)
    for reference in outputs:
        for label, rows in measured.items():
            method, of = label
            if of not in (None, reference):
                continue
            names = {"key": key, "reference": reference, "style": style, "method": method}
            yield from (names | row for row in rows)
            sets.add(reference, style, method, methods[label], rows, judges)
