"""Plan: which identities a run has, with their seeds, splits and shards."""

import pyarrow as pa
import pyarrow.parquet as pq

from manifests import RunManifest
from manifests.run import parse_seeds
from manifests.schemas import PLAN, SCHEMA_VERSION, VERSION_KEY
from pipeline.folders import RunFolder
from pipeline.seeds import derive_seed
from pipeline.shards.files import write_whole


def plan_run(folder: RunFolder) -> int:
    """Write the plan of a run and return how many identities it has.

    An identity's seeds depend on the run's seed, its split and its index there, so more identities
    or other shards leave those that were planned as they are.
    """
    plan = plan_table(folder.run)
    sink = pa.BufferOutputStream()
    pq.write_table(plan, sink)
    content = sink.getvalue().to_pybytes()
    path = folder.plan_path
    if not path.is_file() or path.read_bytes() != content:  # else its age stays, for Snakemake
        folder.path.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)
    return len(plan)


def plan_table(run: RunManifest) -> pa.Table:
    """The plan as a table of schema `manifests.schemas.PLAN`, ordered by split and index."""
    rows = [row for split in run.identities for row in _split_rows(run, split)]
    metadata = {VERSION_KEY: str(SCHEMA_VERSION).encode()}
    return pa.Table.from_pylist(rows, schema=PLAN.with_metadata(metadata))


def _split_rows(run: RunManifest, split: str) -> list[dict]:
    wanted = run.identities[split]
    seeds = parse_seeds(wanted) if isinstance(wanted, str) else None
    return [
        {
            "key": f"{split}-{index:08d}",
            "split": split,
            "seed": seeds[index] if seeds else derive_seed(run.seed, "identity", split, index),
            "shard": f"{split}-{index // run.shards.identities:05d}",
            "instance_seed": derive_seed(run.seed, "instance", split, index),
            "reference_seed": derive_seed(run.seed, "reference", split, index),
            "noise_seed": derive_seed(run.seed, "noise", split, index),
        }
        for index in range(run.count(split))
    ]
