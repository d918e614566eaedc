"""An input: an identity, where the bytes of its images are, and which of them shows what."""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from manifests.rig import MOST
from pipeline.inputs.landmarks import Points
from pipeline.inputs.naming import natural_key, stem

SPLIT = "train"  # of what has none of its own
_OUR_VIEW = re.compile(r"view_[0-9]+\.rgb\.[a-z]+")
_BACK = re.compile(r"(.*[._])?back", re.IGNORECASE | re.DOTALL)

LANDMARKS = "landmarks.json"  # what follows the name of the image, and a dot


class Source(NamedTuple):
    """Where the bytes of one file are."""

    path: Path  # of the file, or of the tar that holds it
    name: str  # for people: "anna/01.png", "shard-0.tar: 00017.jpg"
    size: int  # bytes, as listed; -1 where that is not known
    offset: int | None = None  # in the tar


@dataclass(frozen=True)
class Input:
    """An identity to stylize. With a `problem`, its kind and a message, it is a failed one."""

    name: str  # what its owner calls it
    origin: str  # where it lies, as seen from the content
    views: tuple[Source, ...] = ()  # one: a portrait; more: once around, the first frontal
    back: Source | None = None  # the view from behind, where it was given
    cameras: Source | None = None  # JSON that may say the views' cameras
    landmarks: Source | None = None  # JSON of a portrait's landmarks
    points: Points | None = None  # landmarks that a table gives
    problem: tuple[str, str] | None = None
    key: str = ""
    sha256: str = ""  # of the sample in a column of ours, or of the tar that was fetched
    # of samples of a column of ours
    column: Path | None = None
    count: int = 0  # views
    shard: str = ""
    split: str = SPLIT
    seed: int | None = None

    @property
    def is_multiview(self) -> bool:
        return max(self.count, len(self.views)) > 1


def arrange(names: Iterable[str]) -> tuple[list[str], str | None]:
    """The names of an identity's images: those once around in order, and the one from behind.

    Where some are named as in shards of ours (view_00.rgb.png), these are the views; else all but
    back.* and *_back.* are.
    """
    ordered = sorted(names, key=natural_key)
    if ours := [name for name in ordered if _OUR_VIEW.fullmatch(name)]:
        return ours, None
    backs = [name for name in ordered if _BACK.fullmatch(stem(name))]
    views = [name for name in ordered if not _BACK.fullmatch(stem(name))]
    return (views, backs[0] if backs else None) if views else (ordered, None)


def check_views(one: Input, advice: str = "") -> Input:
    """The same, or with its problem where it has more views than a rig may have."""
    if len(one.views) <= MOST:
        return one
    message = f"{one.name}: {len(one.views)} images, an identity has {MOST} views at most{advice}"
    return replace(one, views=(), problem=("too_many_views", message))


def fingerprint(inputs: Sequence[Input]) -> str:
    """SHA-256 over what was listed: names, sizes and places, not the bytes of images."""
    digest = hashlib.sha256()
    for i in inputs:
        sources = [s[1:] for s in (*i.views, i.back, i.cameras, i.landmarks) if s is not None]
        sample = (i.count, i.shard, i.seed, i.sha256)
        points = () if i.points is None else (i.points,)
        line = repr((i.key, i.name, i.origin, sources, i.problem, sample, *points))
        digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
