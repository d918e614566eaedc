"""Clips for the fine-tune: drawn by number from the zipped columns of a split."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from manifests.stylizer import Finetune
from pipeline.errors import PipelineError
from pipeline.folders import RunFolder
from pipeline.images import resize, to_model
from pipeline.seeds import derive_seed
from pipeline.shards.codecs import depth_from_levels
from pipeline.shards.reader import Column, epoch_order, read_clip, zip_columns
from pipeline.stages.augment import Palette, augment, draw_palette
from stylize import Triplets

REFERENCE = "reference_00"
READERS = 4  # threads that read the clips of a batch
FRONT = 45.0  # degrees to either side: from where a face is seen
FAR = 1e6  # the depth of nothing, whatever the end of a generator's rays


@dataclass(frozen=True)
class Drawn:
    """What a clip is made of: keys, and the rig's views that it shows."""

    key: str
    style: str  # the column that the target is of
    reference: tuple[str, str, str]  # column, key and name of the style image
    hinted: str
    views: list[int]
    augmented: np.random.Generator | None = None  # draws how the style image is changed
    palette: Palette | None = None  # what style image and target are recoloured with
    presence: float = 1.0  # of the style in the target; 0: plain, without the style image


class Clips:
    """The clips of one split, by number: clip n is the same whatever was drawn before it.

    One sample of a column is one identity with all its views, so a clip costs one contiguous read
    from the content's, the style's and the hint's shards each. The style image is another identity
    in the very instance of the style: the target's own reference, or, where one instance is set for
    all, anyone's front view. `held_out` clips are for looking at: styles take turns, and the style
    image is the reference as it was rendered. `cached`: latents are read where there are any.
    Raises PipelineError where too few identities are in every column.
    """

    def __init__(
        self,
        folder: RunFolder,
        split: str,
        styles: Sequence[str],
        image_size: int,
        *,
        held_out: bool = False,
        cached: bool = False,
    ):
        assert folder.run.finetune is not None
        self.wanted: Finetune = folder.run.finetune
        self.seed, self.rig_views = folder.run.seed, folder.run.rig.count
        self.image_size, self.held_out, self.cached = image_size, held_out, cached
        self.styles = [f"style-{style}" for style in styles]
        self.shared = {f"style-{s}" for s in styles if folder.run.styles[s].instance is not None}
        shards = folder.run.shard_names(split)
        names = ["render", *self.styles]
        if cached:
            names += [f"latents-{name}" for name in names]
        self.columns = {name: Column(folder.column(name), shards) for name in names}
        self.keys = zip_columns(list(self.columns.values()))
        hints = self.wanted.hints
        self.content_share = hints.content / (hints.content + hints.camera)
        fewest = 1 if held_out and self.content_share == 1 else 2
        if len(self.keys) < fewest:
            raise PipelineError(
                f"{folder.path}: {len(self.keys)} identities of split {split!r} are in every "
                f"column; fine-tuning takes {fewest} at least: raise identities.{split}"
            )
        self._order = lru_cache(2)(lambda epoch: epoch_order(self.keys, self.seed, epoch))

    def draw(self, number: int) -> Drawn:
        """What clip `number` is made of."""
        epoch, place = divmod(number, len(self.keys))
        order = self._order(epoch)
        key = order[place]
        draw = np.random.default_rng(derive_seed(self.seed, "clip", number))

        def another() -> str:
            return order[(place + 1 + draw.integers(len(order) - 1)) % len(order)]

        plain = self._draw_plain(draw)
        style = "render" if plain else self.styles[draw.integers(len(self.styles))]
        start = int(draw.integers(self.rig_views))
        low, high = self.wanted.strides
        stride = int(draw.integers(low, high + 1))
        if self._looks_at_face(draw):
            start = self._draw_front(draw) - (self.wanted.views - 1) * stride // 2
        views = [(start + i * stride) % self.rig_views for i in range(self.wanted.views)]
        hinted = key if draw.random() < self.content_share else another()
        if plain:
            return Drawn(key, style, (style, key, "view_00"), hinted, views, presence=0.0)
        if self.held_out:
            style = self.styles[number % len(self.styles)]
            return Drawn(key, style, (style, key, REFERENCE), hinted, views)
        if draw.random() < self.wanted.realistic:
            style = "render"
        reference = style, key, REFERENCE
        if style == "render" or style in self.shared:
            lender = another()
            reference = style, lender, f"view_{self._draw_lent(draw):02d}"
        recoloured = self.wanted.recolour > 0 and draw.random() < self.wanted.recolour
        palette = draw_palette(draw) if recoloured else None
        faint = self.wanted.faint > 0 and draw.random() < self.wanted.faint
        presence = 1 - draw.uniform() if faint else 1.0  # above 0
        augmented = draw if self.wanted.augment else None
        return Drawn(key, style, reference, hinted, views, augmented, palette, presence)

    def _draw_plain(self, draw: np.random.Generator) -> bool:
        if self.held_out:
            return not self.styles
        return self.wanted.plain > 0 and draw.random() < self.wanted.plain

    def _looks_at_face(self, draw: np.random.Generator) -> bool:
        wanted = 0.0 if self.held_out else self.wanted.frontal
        return wanted > 0 and draw.random() < wanted

    def _draw_lent(self, draw: np.random.Generator) -> int:
        """The view that shows another identity's style."""
        return self._draw_front(draw) if self.wanted.augment else 0

    def _draw_front(self, draw: np.random.Generator) -> int:
        """A view that is not far from frontal."""
        most = int(FRONT / 360 * self.rig_views)
        return int(draw.integers(-most, most + 1)) % self.rig_views

    def clip(self, number: int) -> dict[str, Any]:
        """The fields of `Triplets` for one clip, without their first dimension, and its key."""
        drawn = self.draw(number)
        ends = [0, self.rig_views // 2]
        front, back = self._read("render", drawn.key, ends)
        style, target = self._read_style(drawn), self._read(drawn.style, drawn.key, drawn.views)
        if drawn.palette is not None:
            style, target = drawn.palette.recolour(style), drawn.palette.recolour(target)
        if 0 < drawn.presence < 1:
            plain = self._read("render", drawn.key, drawn.views)
            target = plain.lerp(target, drawn.presence)
        clip = {
            "key": drawn.key,
            "front": front,
            "back": back,
            "style": style,
            "hint": self._read_images("render", drawn.hinted, drawn.views),
            "target": target,
            "presence": torch.tensor(drawn.presence, dtype=torch.float32),
        }
        if self.wanted.losses.view_consistency and not self.held_out:
            clip |= self._read_geometry(drawn)
        return clip

    def batch(self, numbers: Sequence[int]) -> Triplets:
        """The clips of these numbers as one batch."""
        with ThreadPoolExecutor(READERS) as pool:
            clips = list(pool.map(self.clip, numbers))
        keys = [clip.pop("key") for clip in clips]
        encoded = {"front", "back", "target"} if self.cached else set()
        if self.cached and not self.wanted.augment:
            encoded.add("style")
        return Triplets(
            keys=keys,
            encoded=frozenset(encoded),
            background=FAR,
            **{name: torch.stack([clip[name] for clip in clips]) for name in clips[0]},
        )

    def _read(self, column: str, key: str, views: Sequence[int]) -> torch.Tensor:
        """Latents [., C, h, w] where they are cached, else images [., 3, S, S]."""
        if self.cached:
            return self._read_latents(column, key, [f"view_{view:02d}" for view in views])
        return self._read_images(column, key, views)

    def _read_images(self, column: str, key: str, views: Sequence[int]) -> torch.Tensor:
        return to_model(read_clip(self.columns[column], key, views), self.image_size)

    def _read_latents(self, column: str, key: str, names: Sequence[str]) -> torch.Tensor:
        members = [f"{name}.latent.npy" for name in names]
        found = self.columns[f"latents-{column}"].read(key, members)
        return torch.from_numpy(np.stack([found[member] for member in members])).float()

    def _read_style(self, drawn: Drawn) -> torch.Tensor:
        column, key, name = drawn.reference
        if self.cached and not self.wanted.augment:
            return self._read_latents(column, key, [name])[0]
        [pixels] = self.columns[column].read(key, [f"{name}.rgb"]).values()
        image = to_model(pixels[None], pixels.shape[0])  # in its own size: it is resampled once
        if drawn.augmented is not None:
            image = augment(image, drawn.augmented)
        return resize(image, self.image_size)[0]

    def _read_geometry(self, drawn: Drawn) -> dict[str, torch.Tensor]:
        column = self.columns[drawn.style]
        meta = column.read(drawn.key, ["json"])["json"]
        stored, limits = read_clip(column, drawn.key, drawn.views, "depth"), meta["depth"]
        if limits["levels"]:
            stored = depth_from_levels(stored, limits["start"], limits["end"])
        depth = torch.from_numpy(stored)[:, None]  # [V, 1, h, w]
        nothing = depth >= depth.new_tensor(limits["end"])
        labels = [meta["views"][view]["label"] for view in drawn.views]
        return {
            "depth": torch.where(nothing, FAR, depth),
            "cameras": torch.tensor(labels, dtype=torch.float32),
        }
