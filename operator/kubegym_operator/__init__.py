"""The Kubernetes operator: manifests of ``kubegym.dev`` become pods, and their state becomes conditions.

Observe, plan (pure), execute; level-based, so that it may be killed at any moment (DESIGN sections 4 and 5). It runs as
``python -m kubegym_operator``. Of the data plane it knows ``kubegym.core`` only.
"""
