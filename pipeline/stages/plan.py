"""Plan: which identities a run has, with their seeds, splits and shards."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from manifests import RunManifest
from manifests.ranges import count_shards
from manifests.run import parse_seeds
from manifests.schemas import PLAN, SCHEMA_VERSION, VERSION_KEY
from pipeline.folders import RunFolder
from pipeline.shards.files import write_whole

MANIFEST = "manifest.json"  # in the run's folder: what was asked, defaults included
DRAWS = ("instance", "reference", "noise")  # seeds of an identity beside its own


def plan_run(folder: RunFolder) -> int:
    """Write the plan of a run and return how many identities it has.

    An identity's seeds depend on the run's seed, its split and its index there, so more identities
    or other shards leave those that were planned as they are. Beside the plan, `manifest.json` says
    which settings made what lies in the folder.
    """
    plan = plan_table(folder.run)
    sink = pa.BufferOutputStream()
    pq.write_table(plan, sink)
    folder.path.mkdir(parents=True, exist_ok=True)
    _write_changed(folder.path / MANIFEST, _describe(folder.run).encode())
    _write_changed(folder.plan_path, sink.getvalue().to_pybytes())
    return len(plan)


def _describe(run: RunManifest) -> str:
    """The manifest as it was understood, defaults included: JSON, its paths absolute."""
    content = run.model_dump()
    return json.dumps(content, indent=1, default=lambda path: str(path.absolute())) + "\n"


def _write_changed(path: Path, content: bytes) -> None:
    """Write a file unless it is that already: its age stays then, for Snakemake."""
    if not path.is_file() or path.read_bytes() != content:
        write_whole(path, content)


def plan_table(run: RunManifest) -> pa.Table:
    """The plan as a table of schema `manifests.schemas.PLAN`, ordered by split and index.

    In memory about 80 bytes an identity; a million take some seconds.
    """
    splits = [_plan_split(run, split) for split in run.identities]
    columns = [pa.concat_arrays([split[name] for split in splits]) for name in PLAN.names]
    metadata = {VERSION_KEY: str(SCHEMA_VERSION).encode()}
    return pa.Table.from_arrays(columns, schema=PLAN.with_metadata(metadata))


def _plan_split(run: RunManifest, split: str) -> dict[str, pa.Array]:
    """The columns of one split's rows."""
    count, wanted = run.count(split), run.identities[split]
    if isinstance(wanted, str):
        seeds = pa.array(np.fromiter(parse_seeds(wanted), np.uint32, count))
    else:
        seeds = _derive_seeds(run, "identity", split, count)
    index = np.arange(count)
    shards = _number_names(split, np.arange(count_shards(run, split)), 5)
    return {
        "key": _number_names(split, index, 8),
        "split": pa.repeat(pa.scalar(split), count),
        "seed": seeds,
        "shard": shards.take(pa.array(index // run.shards.identities)),
    } | {f"{draw}_seed": _derive_seeds(run, draw, split, count) for draw in DRAWS}


def _number_names(split: str, numbers: np.ndarray, digits: int) -> pa.Array:
    """``split-00042`` for each number, of at least so many digits."""
    padded = pc.utf8_lpad(pa.array(numbers).cast(pa.string()), digits, "0")
    return pc.binary_join_element_wise(split, padded, "-")


def _derive_seeds(run: RunManifest, draw: str, split: str, count: int) -> pa.Array:
    """`pipeline.seeds.derive_seed` of draw, split and each index, as uint32."""
    name, sha256 = f"{run.seed}/{draw}/{split}/".encode(), hashlib.sha256
    digests = b"".join(sha256(b"%b%d" % (name, index)).digest()[:4] for index in range(count))
    return pa.array(np.frombuffer(digests, ">u4").astype(np.uint32))
