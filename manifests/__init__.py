"""What was asked (the run manifest, YAML) and what was made (the Parquet schemas). No torch."""

from manifests.loading import ManifestError, load_run
from manifests.run import RunManifest

__all__ = ["ManifestError", "RunManifest", "load_run"]
