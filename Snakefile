"""The whole run: every rule calls one verb of `diffstyle360`.

snakemake --cores all --config manifest=manifests/runs/demo.yaml out=runs
snakemake --profile profiles/slurm --config manifest=my.yaml shards=0-9999

With `shards`, the columns of those alone are made: a large run, range by range.
"""

import fcntl
import os
import shlex
import sys
from pathlib import Path

from snakemake.utils import min_version

from manifests import ManifestError, load_run
from manifests.ranges import parse_shard_range, select_shards

min_version("9.10")
shell.prefix(f'export PATH="{Path(sys.executable).parent}:$PATH"; ')  # this environment's programs


# Jobs run in the environment of this very program; under apptainer, in an image that holds it.
container: config.get("container", "diffstyle360.sif")


MANIFEST = config.get("manifest", "manifests/runs/demo.yaml")
OUT = config.get("out", "runs")
try:
    RUN = load_run(MANIFEST)
    RANGE = parse_shard_range(config["shards"]) if "shards" in config else None
    if RANGE:
        select_shards(RUN, RANGE)  # some are there
except ManifestError as error:
    sys.exit(f"error: {error}")
FOLDER = f"{OUT}/{RUN.folder_name()}"
ARGUMENTS = shlex.join([MANIFEST, "--out", OUT])
SHARD = f"{FOLDER}/{{column}}/{{shard}}"
# What reads a shard has it `ancient`: one that is made again, because a sample failed or a byte was
# lost, is the same but for that, and nothing else follows.


def shards(columns, split=None):
    """The commit markers of some columns' shards; of no column, whatever the split, there are none."""
    if not columns:
        return []
    names = select_shards(RUN, RANGE, split) if RANGE else RUN.shard_names(split)
    return expand(f"{SHARD}.parquet", column=columns, shard=names)


def chosen_columns():
    """All columns of a range of shards, but for those that take a model trained on the whole run."""
    made = shards(RUN.columns) + shards(RUN.latent_columns, "train")
    if RUN.stylize and RUN.stylize.model:
        made += shards(RUN.stylized_columns, RUN.stylized_split)
    return made


def finetune_inputs():
    """What is trained on, as images and where it is cached as latents; what is held out."""
    trained = ["render", *(f"style-{name}" for name in RUN.finetuned_styles)]
    inputs = shards([*trained, *RUN.latent_columns], "train")
    if RUN.finetune.validation:
        held_out = [f"style-{name}" for name in RUN.finetune.validation.styles]
        inputs += shards([*trained, *held_out], RUN.finetune.validation.split)
    return inputs


def stylize_inputs(wildcards):
    """A shard of content, the same shard of the style where it carries the references, a model."""
    style = RUN.stylize.references[wildcards.reference].style
    columns = ["render"] + ([f"style-{style}"] if style else [])
    model = [] if RUN.stylize.model else rules.finetune.output
    contents = expand(f"{SHARD}.parquet", column=columns, shard=wildcards.shard)
    return ancient(contents) + list(model)


def growing(amount):
    """A resource that a job is given more of with every attempt (`retries` of a profile)."""
    return lambda wildcards, attempt: amount * attempt


def launcher(wildcards, resources):
    """What starts the fine-tune: a process a GPU, and on several nodes the scheduler a torchrun each."""
    gpus, nodes = resources.get("gpu", 1), resources.get("nodes", 1)
    if gpus <= 1 and nodes == 1:
        return "diffstyle360"
    torchrun = f"torchrun --no-python --nproc-per-node {gpus // nodes}"
    if nodes == 1:
        return f"{torchrun} --standalone diffstyle360"
    first = '$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)'
    return (
        f"{resources.mpi} {torchrun} --nnodes {nodes} --rdzv-backend c10d"
        f" --rdzv-id $SLURM_JOB_ID --rdzv-endpoint {first}:29400 diffstyle360"
    )


wildcard_constraints:
    column="render|style-[a-z0-9_-]+",
    shard="[a-z0-9_-]+-[0-9]{5}[0-9]*",


localrules:
    all,
    plan,


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


rule all:
    input:
        chosen_columns() if RANGE else f"{FOLDER}/report.html",


# The run's folder is named by the hash of its manifest, so no other file can make a plan stale.
rule plan:
    output:
        f"{FOLDER}/plan.parquet",
    log:
        f"{FOLDER}/logs/plan.log",
    params:
        run=ARGUMENTS,
    shell:
        "diffstyle360 plan {params.run} > {log} 2>&1"


rule render:
    input:
        f"{FOLDER}/plan.parquet",
    output:
        multiext(SHARD, ".tar", ".idx", ".parquet"),
    log:
        f"{FOLDER}/logs/render/{{column}}/{{shard}}.log",
    benchmark:
        f"{FOLDER}/benchmarks/render/{{column}}/{{shard}}.tsv"
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
    params:
        run=ARGUMENTS,
    shell:
        "diffstyle360 render {params.run} --column {wildcards.column} --shard {wildcards.shard}"
        " > {log} 2>&1"


rule encode:
    input:
        ancient(f"{SHARD}.parquet"),
    output:
        multiext(f"{FOLDER}/latents-{{column}}/{{shard}}", ".tar", ".idx", ".parquet"),
    log:
        f"{FOLDER}/logs/encode/{{column}}/{{shard}}.log",
    benchmark:
        f"{FOLDER}/benchmarks/encode/{{column}}/{{shard}}.tsv"
    resources:
        mem_mb=growing(16000),
        runtime=growing(120),
    params:
        run=ARGUMENTS,
    shell:
        "diffstyle360 encode {params.run} --column {wildcards.column} --shard {wildcards.shard}"
        " > {log} 2>&1"


rule finetune:
    input:
        ancient(finetune_inputs()) if RUN.finetune else [],
    output:
        multiext(f"{FOLDER}/stylizer/", "config.json", "model.safetensors"),
    log:
        f"{FOLDER}/logs/finetune.log",
    benchmark:
        f"{FOLDER}/benchmarks/finetune.tsv"
    threads: 2
    resources:
        mem_mb=growing(24000),
        runtime=growing(1440),
    params:
        run=ARGUMENTS,
        launcher=launcher,
    shell:
        "{params.launcher} finetune {params.run} > {log} 2>&1"


rule stylize:
    input:
        stylize_inputs,
    output:
        multiext(f"{FOLDER}/stylized-{{reference}}/{{shard}}", ".tar", ".idx", ".parquet"),
    log:
        f"{FOLDER}/logs/stylize/{{reference}}/{{shard}}.log",
    benchmark:
        f"{FOLDER}/benchmarks/stylize/{{reference}}/{{shard}}.tsv"
    resources:
        mem_mb=growing(16000),
        runtime=growing(120),
    params:
        run=ARGUMENTS,
    shell:
        "diffstyle360 stylize {params.run} --reference {wildcards.reference}"
        " --shard {wildcards.shard} > {log} 2>&1"


rule evaluate:
    input:
        shards(RUN.stylized_columns, RUN.stylized_split),
    output:
        f"{FOLDER}/metrics.parquet",
    log:
        f"{FOLDER}/logs/evaluate.log",
    benchmark:
        f"{FOLDER}/benchmarks/evaluate.tsv"
    resources:
        mem_mb=growing(4000),
        runtime=growing(120),
    params:
        run=ARGUMENTS,
    shell:
        "diffstyle360 evaluate {params.run} > {log} 2>&1"


rule verify:
    input:
        shards(RUN.columns),
        shards(RUN.latent_columns, "train"),
        shards(RUN.stylized_columns, RUN.stylized_split),
    output:
        f"{FOLDER}/verified.json",
    log:
        f"{FOLDER}/logs/verify.log",
    benchmark:
        f"{FOLDER}/benchmarks/verify.tsv"
    resources:
        mem_mb=growing(4000),
        runtime=growing(240),
    params:
        run=ARGUMENTS,
    shell:
        "diffstyle360 verify {params.run} > {log} 2>&1"


rule report:
    input:
        f"{FOLDER}/verified.json",
        f"{FOLDER}/metrics.parquet" if RUN.stylize else [],
        rules.finetune.output if RUN.finetune else [],
    output:
        f"{FOLDER}/report.html",
    log:
        f"{FOLDER}/logs/report.log",
    benchmark:
        f"{FOLDER}/benchmarks/report.tsv"
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
    params:
        run=ARGUMENTS,
    shell:
        "diffstyle360 report {params.run} > {log} 2>&1"
