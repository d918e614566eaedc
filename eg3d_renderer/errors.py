"""The one exception of this package."""


class RendererError(ValueError):
    """Something a user asked for cannot be rendered; the message is one line: what, where, what to do."""
