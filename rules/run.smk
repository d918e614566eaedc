"""The rules of a run: identities of a generator, rendered, learned from and stylized.

RUN, FOLDER, ARGUMENTS and SHARD are the Snakefile's, functions those of common.smk.
"""


wildcard_constraints:
    column="render|style-[a-z0-9_-]+",
    shard="[a-z0-9_-]+-[0-9]{5}[0-9]*",


localrules:
    plan,


# The run's folder is named by the hash of its manifest, so no other file can make a plan stale; and
# no clock of a node, behind the one that wrote the plan, a shard.
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
        ancient(f"{FOLDER}/plan.parquet"),
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
