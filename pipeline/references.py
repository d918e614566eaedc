"""Style references: the image that an identity is stylized with."""

from collections.abc import Callable, Collection

import numpy as np

from pipeline.errors import PipelineError
from pipeline.folders import RunFolder
from pipeline.images import read_image
from pipeline.shards.reader import Column


def open_reference(
    folder: RunFolder, name: str, shards: Collection[str] | None = None
) -> Callable[[str], np.ndarray]:
    """A function from an identity's key to its style image [H, W, 3] uint8.

    A reference with an image gives that one for all; one with a style gives the image that each
    sample of the style's column carries. Raises PipelineError for a name that the run has not.
    """
    references = folder.run.stylize.references if folder.run.stylize else {}
    if name not in references:
        known = ", ".join(references) or "none"
        raise PipelineError(f"no reference {name!r} in the run manifest; there: {known}")
    path = references[name].image
    if path:
        image = read_image(path)
        return lambda key: image
    column = Column(folder.column(f"style-{references[name].style}"), shards)

    def read(key: str) -> np.ndarray:
        [image] = column.read(key, ["reference_00.rgb"], check=True).values()
        return image

    return read
