"""The rendered columns of a split as what outputs are measured against."""

from collections.abc import Callable
from functools import cache, cached_property, lru_cache
from typing import Any

import numpy as np
import torch

import eg3d_renderer as er
from pipeline.folders import RunFolder
from pipeline.images import resize, to_model
from pipeline.judges import Pictures
from pipeline.references import open_reference
from pipeline.shards import codecs
from pipeline.shards.codecs import depth_from_levels
from pipeline.shards.reader import Column, read_clip
from pipeline.stages.measures import Masked, Subject, thumbnails
from pipeline.stages.render import column_source, instance_seed, render_seed, rig_labels
from pipeline.stages.stylize import hint_seed
from stylize import metrics

OTHERS = 4  # identities among which an output has to be recognised, at most


class Rendered:
    """Content, truths and style images of one split, by key, at the size of the outputs."""

    def __init__(self, folder: RunFolder, split: str):
        self.folder = folder
        self.shards = folder.run.shard_names(split)
        assert folder.run.stylize is not None
        self.references = folder.run.stylize.references
        # those that were there before anything was stylized; others may still be rendering
        styles = {r.style: f"style-{r.style}" for r in self.references.values() if r.style}
        names = ["render", *styles.values()]
        self.columns = {name: Column(folder.column(name), self.shards) for name in names}
        self._styles: dict[str, Callable[[str], np.ndarray]] = {}
        remembered = (OTHERS + 2) * len(self.columns)
        self._thumbnails = lru_cache(remembered)(self._read_thumbnails)
        self._content = lru_cache(1)(self._read)
        self._load = cache(lambda column: er.load_generator(column_source(folder.run, column)))

    @property
    def keys(self) -> list[str]:
        """The identities that have content."""
        return self.columns["render"].keys

    def subject(self, key: str, reference: str, size: int) -> Subject:
        """What the outputs of an identity, stylized with a reference, are measured against.

        The truth is that of the reference's style; a style image from a file has none.
        """
        style = self.style(reference)
        image = to_model(self._style_of(reference)(key)[None], size)
        views = self.columns["render"].read(key, ["json"])["json"]["views"]
        cameras = torch.tensor([view["label"] for view in views])
        subject = Subject(
            yaws=yaws(cameras),
            content=self._content("render", key, size),
            at=list(range(len(views))),
            style=Pictures(image, metrics.estimate_foreground(image)),
            cameras=cameras,
        )
        column = f"style-{style}"
        if style is not None and key in self.columns[column]:
            subject.truth = self._read(column, key, size)
            subject.identities = [
                self._thumbnails(column, other, size) for other in self._others(column, key)
            ]
            subject.styles = [
                self._thumbnails(name, key, size)
                for name, there in self.columns.items()
                if name not in ("render", column) and key in there
            ]
        return subject

    def on_hint(self, key: str, reference: str, size: int) -> Pictures | None:
        """The identity of a reference's hint in the style and instance of the truth, where the hint
        is another identity's and there is a truth."""
        style = self.style(reference)
        assert self.folder.run.stylize is not None
        if style is None or self.folder.run.stylize.hint_of(reference) == "content":
            return None
        run, column = self.folder.run, f"style-{style}"
        generator = self._load(column)
        labels = rig_labels(run, self._load("render"))
        made = render_seed(
            run, generator, labels, hint_seed(run, key), instance_seed(run, column, self._rows[key])
        )
        images = to_model(codecs.to_uint8(made["image"]), size)
        return Pictures(images, resize(made["image_mask"], size))

    @cached_property
    def _rows(self) -> dict[str, dict[str, Any]]:
        return {row["key"]: row for row in self.folder.plan.to_pylist()}

    def style(self, reference: str) -> str | None:
        """The style whose column a reference's images come from; None for a file."""
        return self.references[reference].style

    def _others(self, column: str, key: str) -> list[str]:
        """The identities after this one, going round."""
        keys = self.columns[column].keys
        at = keys.index(key)
        return [*keys[at + 1 :], *keys[:at]][:OTHERS]

    def _style_of(self, reference: str) -> Callable[[str], np.ndarray]:
        if reference not in self._styles:
            self._styles[reference] = open_reference(self.folder, reference, self.shards)
        return self._styles[reference]

    def _read_thumbnails(self, column: str, key: str, size: int) -> Masked:
        return thumbnails(self._read(column, key, size))

    def _read(self, column: str, key: str, size: int) -> Pictures:
        outputs, views = self.folder.run.outputs, range(self.folder.run.rig.count)
        opened = self.columns[column]
        images = to_model(read_clip(opened, key, views), size)
        if outputs.mask:
            stored = torch.from_numpy(read_clip(opened, key, views, "mask"))
            mask = resize(stored.float()[:, None] / 255, size)
        else:
            mask = metrics.estimate_foreground(images)
        if outputs.depth == "none":
            return Pictures(images, mask)
        limits = opened.read(key, ["json"])["json"]["depth"]
        stored_depth = read_clip(opened, key, views, "depth")
        if outputs.depth == "png16":
            stored_depth = depth_from_levels(stored_depth, limits["start"], limits["end"])
        depth = torch.from_numpy(stored_depth)[:, None]
        return Pictures(images, mask, depth, float(depth.new_tensor(limits["end"])))


def yaws(cameras: torch.Tensor) -> torch.Tensor:
    """Degrees of camera labels [V, 25] around the head, -180..180: 0 in front, 90 at +x, [V].

    To a thousandth: the labels are of single precision.
    """
    x, z = cameras[:, 3].double(), cameras[:, 11].double()
    return torch.rad2deg(torch.atan2(x, z)).round(decimals=3)
