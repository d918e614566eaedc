"""From the names that people give their files to names of samples and columns."""

import re
import unicodedata
from pathlib import Path

LONGEST = 64  # characters of a key; a member's name adds up to 20, and 100 is the limit


def clean(name: str) -> str:
    """A name as letters, digits, '-' and '_': accents are dropped, anything else becomes '-'.

    At most LONGEST characters. A name that is one already stays as it is; one of which nothing is
    left is "unnamed".
    """
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    text = re.sub(r"[^A-Za-z0-9_-]+", "-", plain)
    if text != name:
        text = text.strip("-")
    return text[:LONGEST] or "unnamed"


def style_name(image: Path) -> str:
    """What a style is called that nobody named: after its file, ``Oil on Canvas.jpg`` is
    ``oil-on-canvas``."""
    return clean(image.stem).lower()
