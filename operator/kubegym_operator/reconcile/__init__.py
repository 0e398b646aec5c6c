"""Reconciliation: observe, plan (pure, in ``plan``), execute; what is due comes from one queue."""
