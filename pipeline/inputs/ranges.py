"""Ranges in names of tars, as webdataset writes them: ``x-{00000..00063}.tar`` is 64 names."""

import itertools
import math
import re

from pipeline.errors import PipelineError

MOST = 100_000  # names of one content
_RANGE = re.compile(r"\{(\d{1,12})\.\.(\d{1,12})\}", re.ASCII)


def has_range(text: str) -> bool:
    return _RANGE.search(text) is not None


def expand_ranges(text: str) -> list[str]:
    """All names that a text with ranges of numbers means, the last range running fastest.

    Both ends are in, and a range may run down. Numbers have as many digits as the longer end where
    either begins with 0, as in a shell. Other braces stay as they are. Raises PipelineError for
    more than MOST names.
    """
    pieces = _RANGE.split(text)  # text, first, last, text, ...
    ends = list(zip(pieces[1::3], pieces[2::3], strict=True))
    count = math.prod(abs(int(last) - int(first)) + 1 for first, last in ends)
    if count > MOST:
        raise PipelineError(f"{text}: {count} tars; one content may have {MOST}")
    texts = [[text] for text in pieces[::3]]
    numbers = [_count(first, last) for first, last in ends]
    parts = itertools.chain(*itertools.zip_longest(texts, numbers, fillvalue=[""]))
    return ["".join(chosen) for chosen in itertools.product(*parts)]


def _count(first: str, last: str) -> list[str]:
    padded = any(end[0] == "0" and len(end) > 1 for end in (first, last))
    width = max(len(first), len(last)) if padded else 0
    start, stop = int(first), int(last)
    step = 1 if start <= stop else -1
    return [f"{number:0{width}d}" for number in range(start, stop + step, step)]
