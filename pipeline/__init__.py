"""The stages, the shard format, the command line and the report: where the other packages meet."""
