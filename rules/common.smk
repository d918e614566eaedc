"""What the rules take: resources, which shards of a run, and what starts its fine-tune.

RUN, RANGE and SHARD are the Snakefile's.
"""


def growing(amount):
    """A resource that a job is given more of with every attempt (`retries` of a profile)."""
    return lambda wildcards, attempt: amount * attempt


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
