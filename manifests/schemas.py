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
        # Three kinds of rows: of one view; of an identity (view is null); of all identities (key is
        # null). A measure stands in the rows of its kind, null where there is nothing to measure.
        pa.field("key", pa.string()),
        pa.field("reference", pa.string(), nullable=False),  # of the run manifest's stylize section
        pa.field("style", pa.string()),  # whose truth it is measured against; null: an image's
        pa.field("method", pa.string(), nullable=False),  # diffstyle360, a baseline, or the truth
        pa.field("view", pa.int16()),
        pa.field("yaw", pa.float64()),  # degrees of the view's camera: 0 front, 180 back
        # of one view, on the foreground
        pa.field("psnr", pa.float64()),  # dB, higher is nearer to the truth
        pa.field("ssim", pa.float64()),  # 1 is the truth
        pa.field("sharpness", pa.float64()),  # gradient energy over the truth's, 1 is as sharp
        pa.field("silhouette", pa.float64()),  # IoU of what is not white with content's mask
        pa.field("spill", pa.float64()),  # its share outside the truth's mask (else content's)
        pa.field("depth_agreement", pa.float64()),  # truth alone: share of content's depth it keeps
        pa.field("own_identity", pa.float64()),  # share of other identities' truths farther off
        pa.field("own_style", pa.float64()),  # share of this identity's other styles farther off
        pa.field("warp", pa.float64()),  # squared error of the next view against this one warped
        pa.field("step", pa.float64()),  # the same, nothing warped
        # of one view, with weights that the user gives
        pa.field("clip", pa.float64()),  # CLIP-I cosine to the style image
        pa.field("csd", pa.float64()),  # CSD style cosine to it
        pa.field("lpips", pa.float64()),  # to the truth, 0 is the same
        pa.field("content_lpips", pa.float64()),  # to content
        pa.field("identity", pa.float64()),  # ArcFace cosine to content, within 45 degrees
        pa.field("leakage", pa.float64()),  # ArcFace cosine to the style image less the truth's
        # of an identity
        pa.field("style_distance", pa.float64()),  # sliced Wasserstein to the style image, 0 best
        pa.field("consistency", pa.float64()),  # warp error over the truth's
        pa.field("seam", pa.float64()),  # warp (else step) of the last view over the others'
        # of all identities, with weights that the user gives
        pa.field("fid", pa.float64()),  # to the views of the truth
        pa.field("kid", pa.float64()),
        pa.field("artfid", pa.float64()),  # (1 + content_lpips) (1 + fid)
    ]
)
