"""What was made: the Parquet schemas of the plan, of a column's shards and of the metrics.

Every file carries `SCHEMA_VERSION` in its key-value metadata under `VERSION_KEY`; readers refuse a
version they do not know.
"""

import pyarrow as pa

SCHEMA_VERSION = 1
VERSION_KEY = b"diffstyle360.schema_version"

_SAMPLE = [
    pa.field("key", pa.string(), nullable=False),  # "train-00000042": split and index in it
    pa.field("split", pa.string(), nullable=False),
    pa.field("seed", pa.uint32(), nullable=False),  # numpy RandomState seed of the latent z
]

PLAN = pa.schema(
    [
        *_SAMPLE,
        pa.field("shard", pa.string(), nullable=False),  # "train-00005", the tar that holds it
        pa.field("instance_seed", pa.uint32(), nullable=False),  # of the style instance
        pa.field(
            "reference_seed", pa.uint32(), nullable=False
        ),  # of the style reference's identity
        pa.field("noise_seed", pa.uint32(), nullable=False),  # of the stylizer's first noise
    ]
)

OK = "ok"  # the status of a sample that is in the tar; any other is the type of its failure

RECORD = pa.schema(
    [
        *_SAMPLE,
        pa.field("status", pa.string(), nullable=False),
        pa.field("message", pa.string(), nullable=False),  # empty where status is ok
        pa.field("offset", pa.int64()),  # of the sample's first header in the tar; null if failed
        pa.field("size", pa.int64()),  # bytes from there to the end of its last padding
        pa.field("sha256", pa.string()),  # of those bytes
        pa.field("members", pa.int32()),
        pa.field("seconds", pa.float64()),  # spent on making it, encoding not counted
    ]
)

METRICS = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("reference", pa.string(), nullable=False),  # of the run manifest's stylize section
        pa.field("method", pa.string(), nullable=False),  # diffstyle360, or a baseline
        # means over the views of the identity; null where there is no truth or nothing to measure
        pa.field("psnr", pa.float64()),  # dB on the foreground, higher is nearer to the truth
        pa.field("ssim", pa.float64()),  # on the foreground, 1 is the truth
        pa.field(
            "style_distance", pa.float64()
        ),  # sliced Wasserstein to the style image, 0 is best
        pa.field("sharpness", pa.float64()),  # gradient energy over the truth's, 1 is as sharp
        pa.field("consistency", pa.float64()),  # warp error between neighbours over the truth's
        pa.field("seam", pa.float64()),  # warp error last to first view over other neighbours'
    ]
)
