"""The shard format: tars of samples, their indexes, the reader and the verifier."""


class ShardError(RuntimeError):
    """A shard that cannot be written, read or trusted; one line: where, what, what to do."""
