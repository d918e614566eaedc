"""The one exception of this package."""


class RendererError(ValueError):
    """What a user asked for cannot be rendered; one line says what, where, and what to do."""
