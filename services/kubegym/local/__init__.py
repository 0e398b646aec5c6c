"""Runs manifests on one machine: composes environments, models, agents and the rollout engine."""
