"""Watching the cluster with kopf, and telling the truth about it."""
