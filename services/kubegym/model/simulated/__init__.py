"""A simulated engine: answers chat completions without a model, as a server and in process. It says so in every reply.

For tests, demonstrations and benchmarks: latencies, token counts, answers, tool calls and faults are configured, and
repeatable from a seed. Over HTTP it looks like vLLM, metric names included.
"""

from kubegym.model.simulated.config import Answers, Distribution, Faults, SimulatedConfig
from kubegym.model.simulated.engine import SimulatedEngine
from kubegym.model.simulated.server import SimulatedServer, run_server, serve_simulated

__all__ = [
    "Answers",
    "Distribution",
    "Faults",
    "SimulatedConfig",
    "SimulatedEngine",
    "SimulatedServer",
    "run_server",
    "serve_simulated",
]
