"""Benchmarks: what a rollout costs beyond its model. ``python -m benchmarks`` runs them all and prints a table.

CPU seconds and ratios within one run count; wall time on a shared machine is noise. Nothing here is asserted in tests.
"""
