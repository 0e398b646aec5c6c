"""The agent harness: a pure step function, its driver, and one attempt of one rollout."""

from kubegym.agent.attempt import AgentSettings, apply_verdict, run_attempt

__all__ = ["AgentSettings", "apply_verdict", "run_attempt"]
