"""The rollout engine: plan, claim, work, commit; the Collector."""
