"""The rules of a bulk stylization: the content is listed once, and every shard is a job.

RUN, FOLDER, ARGUMENTS and SHARD are the Snakefile's, `growing` is of common.smk.
"""

from manifests.bulk_plan import list_shards


wildcard_constraints:
    column=r"stylized(-[a-z0-9_-]+)?(\.v[0-9]+)?",
    shard="[A-Za-z0-9_-]+",


localrules:
    plan,


# What was planned is made, whatever is there by now; that it changed is told.
if workflow.is_main_process and RUN.is_newer_than(f"{FOLDER}/plan.parquet"):
    print(
        f"{RUN.content} has changed since this run was planned, which stays as it is;"
        f" `diffstyle360 plan {ARGUMENTS}` compares them",
        file=sys.stderr,
    )


checkpoint plan:
    output:
        f"{FOLDER}/plan.parquet",
    log:
        f"{FOLDER}/logs/plan.log",
    params:
        run=ARGUMENTS,
    shell:
        "diffstyle360 plan {params.run} > {log} 2>&1"


rule stylize:
    input:
        ancient(f"{FOLDER}/plan.parquet"),
    output:
        multiext(SHARD, ".tar", ".idx", ".parquet"),
    log:
        f"{FOLDER}/logs/stylize/{{column}}/{{shard}}.log",
    benchmark:
        f"{FOLDER}/benchmarks/stylize/{{column}}/{{shard}}.tsv"
    resources:
        mem_mb=growing(16000),
        runtime=growing(120),
    params:
        run=ARGUMENTS,
    shell:
        "diffstyle360 stylize {params.run} --column {wildcards.column} --shard {wildcards.shard}"
        " > {log} 2>&1"


rule verify:
    input:
        lambda wildcards: expand(
            f"{FOLDER}/{{shard}}.parquet", shard=list_shards(checkpoints.plan.get().output[0])
        ),
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
