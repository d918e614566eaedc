"""Pictures for people: contact sheets, turntables, side-by-side strips. All arrays are uint8."""

import base64
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from pipeline.shards import ShardError
from pipeline.shards.reader import Column, read_clip

GAP = 2
PAPER = 255
SHOWN = 160  # pixels of an image's side, at most
MILLISECONDS = 90  # a turntable's frame


def contact_sheet(rows: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """Rows of images [H, W, 3] as one, with thin gaps; smaller ones are enlarged to the largest."""
    size = max(image.shape[0] for row in rows for image in row)
    step, columns = size + GAP, max(map(len, rows))
    sheet = np.full((len(rows) * step - GAP, columns * step - GAP, 3), PAPER, np.uint8)
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            sheet[i * step : i * step + size, j * step : j * step + size] = enlarge(image, size)
    return sheet


def column_sheet(column: Column, rows: int, views: int) -> np.ndarray:
    """Identities down, views across, both evenly spread over the column.

    Raises ShardError where it has no samples.
    """
    if not column.keys:
        raise ShardError(f"{column.folder}: no samples to show")
    keys = [column.keys[i] for i in spread(len(column), rows)]
    count = len(column.read(keys[0], ["json"])["json"]["views"])
    shown = spread(count, views)
    return contact_sheet([list(thumbnails(read_clip(column, key, shown))) for key in keys])


def strips(columns: Sequence[np.ndarray]) -> np.ndarray:
    """Columns of views [V, ., ., 3] side by side: frames [V, H, len(columns) W, 3]."""
    size = max(views.shape[1] for views in columns)
    return np.concatenate(
        [np.stack([enlarge(view, size) for view in views]) for views in columns], axis=2
    )


def enlarge(image: np.ndarray, size: int) -> np.ndarray:
    """[H, W, 3] -> [size, size, 3], bicubic."""
    if image.shape[:2] == (size, size):
        return image
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC))


def thumbnails(images: np.ndarray) -> np.ndarray:
    """[V, H, W, 3], made smaller where they are larger than SHOWN; WebP ends at 16383 pixels."""
    if images.shape[1] <= SHOWN:
        return images
    sizes = (SHOWN, SHOWN)
    small = [Image.fromarray(i).resize(sizes, Image.Resampling.LANCZOS) for i in images]
    return np.stack([np.asarray(image) for image in small])


def spread(count: int, wanted: int) -> list[int]:
    """At most `wanted` of the indices 0..count-1, evenly spread from 0 on."""
    wanted = min(count, wanted)
    return [index * count // wanted for index in range(wanted)]


def encode_webp(image: np.ndarray, quality: int = 88) -> bytes:
    """[H, W, 3] as lossy WebP."""
    sink = io.BytesIO()
    Image.fromarray(image).save(sink, "WEBP", quality=quality, method=4)
    return sink.getvalue()


def encode_turntable(frames: np.ndarray, quality: int = 82) -> bytes:
    """[V, H, W, 3] as a WebP animation that turns for ever."""
    first, *others = (Image.fromarray(frame) for frame in frames)
    sink = io.BytesIO()
    first.save(
        sink,
        "WEBP",
        save_all=True,
        append_images=others,
        duration=MILLISECONDS,
        loop=0,
        quality=quality,
        method=4,
    )
    return sink.getvalue()


def to_uri(webp: bytes) -> str:
    """A data URI that an HTML page can hold."""
    return "data:image/webp;base64," + base64.b64encode(webp).decode()
