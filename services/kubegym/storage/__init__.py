"""Object storage behind one protocol: local folders, S3-compatible stores, and an in-memory twin."""
