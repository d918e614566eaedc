"""A whole run, of either kind of manifest; every rule calls one verb of `diffstyle360`.

snakemake --cores all --config manifest=manifests/runs/demo.yaml out=runs
snakemake --profile profiles/slurm --config manifest=my.yaml shards=0-9999

The rules are in rules/run.smk (identities of a generator: rendered, learned, stylized) and in
rules/bulk.smk (images of any origin, stylized). With `shards`, the columns of those alone are made: a
large run, range by range.
"""

import fcntl
import os
import shlex
import sys
from pathlib import Path

from snakemake.utils import min_version

from manifests import BulkManifest, ManifestError, load_manifest
from manifests.ranges import parse_shard_range, select_shards

min_version("9.10")
shell.prefix(f'export PATH="{Path(sys.executable).parent}:$PATH"; ')  # this environment's programs


# Jobs run in the environment of this very program; under apptainer, in an image that holds it.
container: config.get("container", "diffstyle360.sif")


MANIFEST = config.get("manifest", "manifests/runs/demo.yaml")
OUT = config.get("out", "runs")
try:
    RUN = load_manifest(MANIFEST)
    IS_BULK = isinstance(RUN, BulkManifest)
    RANGE = parse_shard_range(config["shards"]) if "shards" in config else None
    if RANGE and IS_BULK:
        raise ManifestError(f"{MANIFEST}: shards= is of a run; a bulk manifest makes all it has")
    if RANGE:
        select_shards(RUN, RANGE)  # some are there
except ManifestError as error:
    sys.exit(f"error: {error}")
FOLDER = f"{OUT}/{RUN.folder_name()}"
ARGUMENTS = shlex.join([MANIFEST, "--out", OUT])
SHARD = f"{FOLDER}/{{column}}/{{shard}}"


onstart:
    # Snakemake's own lock outlives a kill and then refuses the same command, so profiles/default
    # turns it off. The kernel frees this one with the process, however that ends.
    os.makedirs(FOLDER, exist_ok=True)
    try:
        fcntl.flock(
            os.open(f"{FOLDER}/.lock", os.O_CREAT | os.O_WRONLY),
            fcntl.LOCK_EX | fcntl.LOCK_NB,
        )
    except BlockingIOError:
        sys.exit(f"{FOLDER}: another snakemake is making this run; wait for it, or stop it")


localrules:
    all,


include: "rules/common.smk"


rule all:
    input:
        chosen_columns() if RANGE else f"{FOLDER}/report.html",


if IS_BULK:

    include: "rules/bulk.smk"

else:

    include: "rules/run.smk"
