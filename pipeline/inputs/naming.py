"""Names that people and other programs gave: their order, and the keys that are made of them."""

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from manifests.names import LONGEST, clean

SUFFIXES = {"jpg", "jpeg", "jpe", "jfif", "png", "apng", "webp", "gif", "bmp", "tif", "tiff"}
SUFFIXES |= {"avif", "jp2", "j2k", "ppm", "pgm"}
_HASH = 8  # hexadecimal digits that tell names apart


class Named(NamedTuple):
    """Something to be given a key."""

    name: str  # what it is called
    origin: str  # where it lies: tells those of one name apart


def is_image_name(name: str) -> bool:
    """Whether a name ends as an image's does; what it holds is another matter."""
    return name.rpartition(".")[2].lower() in SUFFIXES


def stem(name: str) -> str:
    """A file's name without the ending of an image."""
    return name.rpartition(".")[0] if is_image_name(name) else name


def legible(name: str) -> str:
    """A file's name as text, with a sign in place of what is no UTF-8 or cannot be printed."""
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return "".join(sign if sign.isprintable() else "\ufffd" for sign in text)


def natural_key(name: str) -> tuple:
    """Sorts as people count: view_2 before view_10, without regard to case. A total order."""
    pieces: list = re.split(r"([0-9]+)", name.casefold())  # text, number, text, ...
    for i in range(1, len(pieces), 2):
        digits = pieces[i].lstrip("0")
        pieces[i] = (len(digits), digits)
    return pieces, name


def make_keys(items: Sequence[Named]) -> list[str]:
    """A key for each, all different: its `clean` name.

    Where several would get the same key, each of them gets a hash of its name and origin behind it,
    and where these are the same too, a number. So a key depends on those alone that share its name,
    not on their order, unless name and origin are the same.
    """
    cleaned = [clean(item.name) for item in items]
    counts = Counter(cleaned)
    keys = [
        text if counts[text] == 1 else _extend(text, _digest(item))
        for text, item in zip(cleaned, items, strict=True)
    ]
    counts = Counter(keys)
    taken = {key for key in keys if counts[key] == 1}
    numbers = dict.fromkeys(counts, 1)  # the last one given
    for index, key in enumerate(keys):
        while keys[index] in taken and counts[key] > 1:
            numbers[key] += 1
            keys[index] = _extend(key, str(numbers[key]))
        taken.add(keys[index])
    return keys


def _digest(item: Named) -> str:
    text = f"{item.name}\0{item.origin}".encode("utf-8", "surrogateescape")
    return hashlib.sha256(text).hexdigest()[:_HASH]


def _extend(text: str, tail: str) -> str:
    return f"{text[: LONGEST - len(tail) - 1]}-{tail}"
