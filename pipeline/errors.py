"""The one exception of the stages: its message is one line for the user."""


class PipelineError(RuntimeError):
    """Something the user asked for cannot be done: what, where, and what to do."""
