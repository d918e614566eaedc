"""Where a run's artefacts lie: the one place that knows their names."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from manifests import RunManifest, load_run
from manifests.schemas import PLAN, SCHEMA_VERSION, VERSION_KEY
from pipeline.errors import PipelineError


@dataclass(frozen=True)
class RunFolder:
    """A run manifest and the folder that holds what was made of it."""

    run: RunManifest
    path: Path

    @property
    def plan_path(self) -> Path:
        return self.path / "plan.parquet"

    @property
    def checkpoints(self) -> Path:
        return self.path / "finetune"

    @property
    def samples(self) -> Path:
        """The pictures that a fine-tune makes now and then."""
        return self.checkpoints / "samples"

    @property
    def stylizer(self) -> Path:
        """The model that `stylize` uses."""
        given = self.run.stylize.model if self.run.stylize else None
        return given or self.path / "stylizer"

    @property
    def swaps_path(self) -> Path:
        return self.path / "swaps.json"

    @property
    def metrics_path(self) -> Path:
        return self.path / "metrics.parquet"

    @property
    def verified_path(self) -> Path:
        return self.path / "verified.json"

    @property
    def report_path(self) -> Path:
        return self.path / "report.html"

    def column(self, name: str) -> Path:
        """The folder of a column: ``render``, ``style-``, ``latents-`` or ``stylized-NAME``."""
        return self.path / name

    @cached_property
    def plan(self) -> pa.Table:
        """The plan, one row an identity. Raises PipelineError where it cannot be read."""
        if not self.plan_path.is_file():
            raise PipelineError(f"{self.plan_path}: no plan yet; run `diffstyle360 plan` first")
        try:
            plan = pq.read_table(self.plan_path)
        except (pa.ArrowException, OSError, ValueError):
            raise PipelineError(
                f"{self.plan_path}: not readable as Parquet; remove it and plan again"
            ) from None
        version = (plan.schema.metadata or {}).get(VERSION_KEY, b"none").decode()
        if version != str(SCHEMA_VERSION):
            raise PipelineError(
                f"{self.plan_path}: schema version {version}, this program reads {SCHEMA_VERSION}"
            )
        return plan.cast(PLAN)

    def rows(self, shard: str) -> list[dict]:
        """The plan's rows of one shard, in order. Raises PipelineError for an unknown shard."""
        plan = self.plan
        rows = plan.filter(pa.compute.equal(plan["shard"], shard)).to_pylist()
        if not rows:
            known = self.run.shard_names()
            raise PipelineError(f"no shard {shard!r} in this run; it has {known[0]} to {known[-1]}")
        return rows


def open_run(manifest: str | Path, out: str | Path = "runs") -> RunFolder:
    """The run of a manifest below the folder `out`; nothing is created."""
    run = load_run(manifest)
    return RunFolder(run, Path(out) / run.folder_name())
