"""The one exception of this package, and what to say of a name that is not known."""

import difflib
from collections.abc import Iterable


class RendererError(ValueError):
    """What a user asked for cannot be rendered; one line says what, where, and what to do."""


def suggest(name: str, known: Iterable[str]) -> str:
    """The end of a complaint about `name`: what was meant, or else all that is known."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
