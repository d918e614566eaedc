"""Where a run's artefacts lie: the one place that knows their names."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from manifests import BulkManifest, RunManifest, load_manifest, load_run
from manifests.bulk_plan import read_plan, read_shards
from manifests.schemas import PLAN, SCHEMA_VERSION, VERSION_KEY
from pipeline.errors import PipelineError

REQUEST = "stylize.json"  # in the folder of a bulk stylization


class Folder:
    """What lies in the folder of either kind of run."""

    path: Path

    @property
    def plan_path(self) -> Path:
        return self.path / "plan.parquet"

    @property
    def verified_path(self) -> Path:
        return self.path / "verified.json"

    @property
    def report_path(self) -> Path:
        return self.path / "report.html"

    def column(self, name: str) -> Path:
        """The folder of a column: ``render``, ``style-``, ``latents-`` or ``stylized-NAME``."""
        return self.path / name


@dataclass(frozen=True)
class RunFolder(Folder):
    """A run manifest and the folder that holds what was made of it."""

    run: RunManifest
    path: Path

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

    def planned_keys(self) -> Iterator[tuple[str, list[str]]]:
        """Every column, and the samples that it must have."""
        plan = self.plan.select(["key", "split"]).to_pylist()
        for column, splits in self.run.made_columns.items():
            yield column, [row["key"] for row in plan if row["split"] in splits]


@dataclass(frozen=True)
class BulkFolder(Folder):
    """A bulk manifest and the folder that holds what was made of it."""

    bulk: BulkManifest
    path: Path

    @property
    def request_path(self) -> Path:
        """What was asked for and what was listed; it outlives a plan that is lost."""
        return self.path / REQUEST

    @cached_property
    def shards(self) -> dict[str, list[str]]:
        """The planned shards of every column. Raises ManifestError where the plan is unreadable."""
        return read_shards(self.plan_path)

    def planned_keys(self) -> Iterator[tuple[str, list[str]]]:
        """Every column, and the samples that it must have."""
        for column in self.shards:
            table, _ = read_plan(self.plan_path, ["key"], pa.compute.field("column") == column)
            yield column, table["key"].to_pylist()


def open_run(manifest: str | Path, out: str | Path = "runs") -> RunFolder:
    """The run of a manifest below the folder `out`; nothing is created."""
    run = load_run(manifest)
    return RunFolder(run, Path(out) / run.folder_name())


def open_folder(manifest: str | Path, out: str | Path = "runs") -> RunFolder | BulkFolder:
    """The folder of either kind of manifest below the folder `out`; nothing is created."""
    content = load_manifest(manifest)
    path = Path(out) / content.folder_name()
    return (
        BulkFolder(content, path) if isinstance(content, BulkManifest) else RunFolder(content, path)
    )
