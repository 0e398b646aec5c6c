"""The agent harness: a pure step function, its driver, and one attempt of one rollout."""

from kubegym.agent.attempt import TRUNCATED, AgentSettings, apply_verdict, run_attempt

__all__ = ["TRUNCATED", "AgentSettings", "apply_verdict", "run_attempt"]
