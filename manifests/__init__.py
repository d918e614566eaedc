"""What was asked (manifests, YAML) and what was made (the Parquet schemas). No torch."""

from manifests.bulk import BulkManifest
from manifests.loading import ManifestError, load_manifest, load_run
from manifests.run import RunManifest

__all__ = ["BulkManifest", "ManifestError", "RunManifest", "load_manifest", "load_run"]
