"""What pods find: a store, a model, mounted files."""

from testbed.pods_fixtures import cluster, model, prefix, s3

__all__ = ["cluster", "model", "prefix", "s3"]
