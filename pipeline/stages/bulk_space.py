"""What a bulk stylization still has to write, and whether the disk suffices."""

from typing import NamedTuple

from pipeline.bounds import SHARD_ENDS, bound_image, stylizer_config, sum_sample
from pipeline.console import show_bytes
from pipeline.folders import BulkFolder
from pipeline.space import Need, compare_space, free_bytes
from pipeline.stages.status import look_at_bulk

USUAL = {
    "png": 1.6,
    "webp": 1.5,
    "jpeg": 0.24,
}  # bytes of a pixel of a head of 512², `bench shards`


class BulkNeed(NamedTuple):
    """What a column still has to write."""

    usual: float  # bytes, as such views take on average
    most: Need


def estimate_bulk(folder: BulkFolder) -> list[BulkNeed]:
    """What each column of a planned stylization still takes.

    A column with a sample goes by those that it has, any other by the number of its views, their
    size and their format. Raises ManifestError without a plan, PipelineError where the stylizer's
    config.json cannot be read.
    """
    pixels = stylizer_config(folder.bulk.model)["image_size"] ** 2
    images = USUAL[folder.bulk.rgb] * pixels, bound_image(3 * pixels)
    needs = []
    for column in look_at_bulk(folder).columns:
        if column.count.ok:
            size = column.bytes_to_come or 0
            needs.append(BulkNeed(size, Need(column.name, size, True)))
            continue
        views, ends = column.views, (column.shards_asked - column.shards) * SHARD_ENDS
        usual, most = (
            column.missing * sum_sample([image] * views, views) + ends for image in images
        )
        needs.append(BulkNeed(usual, Need(column.name, most, False)))
    return needs


def tell_space(folder: BulkFolder) -> str:
    """How much is to come and how much is free, for people."""
    needs, free = estimate_bulk(folder), free_bytes(folder.path)
    usual, most = sum(need.usual for need in needs), sum(need.most.bytes for need in needs)
    bound = "" if all(need.most.measured for need in needs) else f", at most {show_bytes(most)}"
    return f"about {show_bytes(usual)} to come{bound}; {show_bytes(free)} free"


def check_bulk_space(folder: BulkFolder) -> str | None:
    """As `pipeline.space.check_space`, of a bulk stylization that is planned."""
    needs = [need.most for need in estimate_bulk(folder)]
    return compare_space(folder.path, needs, "styles, views, or rgb: jpeg")
