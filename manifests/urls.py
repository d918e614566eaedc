"""Content that lies elsewhere: at an fsspec URL, or printed by a command as webdataset has it."""

import re
from pathlib import Path

PIPE = "pipe:"  # and a command of the shell, which prints a tar
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+(://|::)")  # one letter: a drive of another system


def is_url(content: str) -> bool:
    """Whether it is a URL or a ``pipe:COMMAND``, not a path of this machine."""
    return content.startswith(PIPE) or _SCHEME.match(content) is not None


def absolute(content: str) -> str:
    """The same whatever folder one is in: a path from the root; a URL as it was given."""
    return content if is_url(content) else str(Path(content).absolute())
