"""Metrics of the simulated engine under vLLM's names, so that scaling and dashboards can be tried without a GPU."""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate

_FIRST_TOKEN_BUCKETS = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0),
    *(80.0, 160.0, 640.0, 2560.0),
)
_REQUEST_BUCKETS = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0),
    *(960.0, 1920.0, 7680.0),
)
_FINISHED = ("stop", "length", "abort", "error")

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"


class EngineMetrics:
    """Counters and histograms of one engine; gauges are handed in when they are read."""

    __slots__ = ("_end_to_end", "_finished", "_first_token", "_generated", "_labels", "_prompt")

    def __init__(self, model: str) -> None:
        escaped = model.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        self._labels = f'engine="0",model_name="{escaped}"'
        self._prompt = 0
        self._generated = 0
        self._finished = dict.fromkeys(_FINISHED, 0)
        self._first_token = _Histogram(_FIRST_TOKEN_BUCKETS)
        self._end_to_end = _Histogram(_REQUEST_BUCKETS)

    def finished(self, reason: str, prompt: int, generated: int, first: float, total: float) -> None:
        """Count one answered request: finish reason, tokens, seconds to the first token and to the whole answer."""
        self._prompt += prompt
        self._generated += generated
        self._finished[reason if reason in self._finished else "stop"] += 1
        self._first_token.observe(first)
        self._end_to_end.observe(total)

    def render(self, running: int, waiting: int, cache: float, under_way: tuple[float, float] = (0.0, 0.0)) -> bytes:
        """The exposition text; ``under_way``: tokens read and made for answers that are not finished."""
        labels = self._labels
        lines: list[str] = []

        def metric(name: str, kind: str, *samples: tuple[str, float]) -> None:
            lines.append(f"# TYPE vllm:{name} {kind}")
            lines.extend(f"vllm:{name}{{{labels}{extra}}} {value}" for extra, value in samples)

        metric("num_requests_running", "gauge", ("", running))
        metric("num_requests_waiting", "gauge", ("", waiting))
        metric("kv_cache_usage_perc", "gauge", ("", cache))
        metric("prompt_tokens_total", "counter", ("", self._prompt + under_way[0]))
        metric("generation_tokens_total", "counter", ("", self._generated + under_way[1]))
        finished = [(f',finished_reason="{reason}"', count) for reason, count in self._finished.items()]
        metric("request_success_total", "counter", *finished)
        lines += self._first_token.render("time_to_first_token_seconds", labels)
        lines += self._end_to_end.render("e2e_request_latency_seconds", labels)
        return ("\n".join(lines) + "\n").encode()


class _Histogram:
    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def render(self, name: str, labels: str) -> list[str]:
        bounds = [*map(str, self._bounds), "+Inf"]
        cumulative = list(accumulate(self._counts))
        return [
            f"# TYPE vllm:{name} histogram",
            *(
                f'vllm:{name}_bucket{{{labels},le="{bound}"}} {count}'
                for bound, count in zip(bounds, cumulative, strict=True)
            ),
            f"vllm:{name}_sum{{{labels}}} {self._sum}",
            f"vllm:{name}_count{{{labels}}} {cumulative[-1]}",
        ]
