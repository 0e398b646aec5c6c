"""The dashboards: throughput, rewards, failures, queue, model, operator.

Metrics of pods carry ``namespace``, ``pod``, ``component`` and the name of whom they work for: ``rolloutjob``,
``gymenvironment`` or ``modelserver`` (the chart's PodMonitor sets these). ``tests/unit/chart`` holds every metric named
here to what the programs expose.
"""

from __future__ import annotations

from charts.generate.panels import Dashboard, Panel, Query, Variable

_JOBS = (Variable("namespace", "kubegym_rollouts_in_flight"), Variable("rolloutjob", "kubegym_rollouts_in_flight"))


def _where(*matchers: str) -> str:
    """A selector of what the dashboard's variables choose, and of further matchers."""
    return "{" + ",".join(('namespace=~"$namespace"', *matchers)) + "}"


_OF_JOB = 'rolloutjob=~"$rolloutjob"'
_NAMED = 'name=~"$rolloutjob"'
_SCORED, _NOT_SCORED = 'outcome="scored"', 'outcome!="scored"'
_JOB = _where(_OF_JOB)
_MODEL = _where('modelserver=~"$modelserver"')
_ENVIRONMENT = _where()


def _rate(metric: str, by: str, labels: str = _JOB) -> str:
    return f"sum by ({by}) (rate({metric}{labels}[$__rate_interval]))"


def _share(metric: str, over: str, by: str, labels: str = _JOB) -> str:
    return f"{_rate(metric, by, labels)} / {_rate(over, by, labels)}"


def _of_jobs(outcomes: str) -> str:
    """Rollouts of each RolloutJob as the operator reports them; outcomes as a pattern."""
    matcher = f'outcome=~"{outcomes}"'
    return f"sum by (namespace, name) (kubegym_rolloutjob_rollouts{_where(_NAMED, matcher)})"


def _environments(condition: str, value: int) -> str:
    """GymEnvironments whose condition is false (0) or true (1)."""
    matcher = f'type="{condition}"'
    return f"kubegym_environment_condition{_where(matcher)} == {value}"


def _quantiles(
    histogram: str, labels: str, by: str = "", *, at: tuple[float, ...] = (0.5, 0.95, 0.99)
) -> tuple[Query, ...]:
    """Quantiles of a histogram, for each value of the label ``by``."""
    group = f"le, {by}" if by else "le"
    legend = f"{{{{{by}}}}} " if by else ""
    rate = _rate(f"{histogram}_bucket", group, labels)
    return tuple(Query(f"histogram_quantile({q}, {rate})", f"{legend}p{int(q * 100)}") for q in at)


def _throughput() -> Dashboard:
    return Dashboard(
        "throughput",
        "Throughput",
        "How fast runs collect rollouts, and where the time goes.",
        _JOBS,
        (
            Panel(
                "Rollouts settled",
                (Query(_rate("kubegym_rollouts_total", "namespace, rolloutjob"), "{{namespace}}/{{rolloutjob}}"),),
                "ops",
                "Rollouts with a result, whatever it is, in a second.",
            ),
            Panel(
                "Settled of planned",
                (
                    Query(
                        f"{_of_jobs('scored|unscored|failed')} / {_of_jobs('expected')}",
                        "{{namespace}}/{{name}}",
                    ),
                ),
                "percentunit",
                "As the operator last read it from the store; at most 30 s old.",
                "bargauge",
            ),
            Panel(
                "Rollouts in flight",
                (Query(f"sum by (rolloutjob) (kubegym_rollouts_in_flight{_JOB})", "{{rolloutjob}}"),),
                text="Below concurrency x workers while shards are left: something holds workers back.",
            ),
            Panel("Shards", (Query(f"sum by (state) (kubegym_rolloutjob_shards{_where(_NAMED)})", "{{state}}"),)),
            Panel("Tokens", (Query(_rate("kubegym_rollout_tokens_total", "kind"), "{{kind}}"),), "ops"),
            Panel("Duration of an attempt", _quantiles("kubegym_rollout_duration_seconds", _JOB), "s"),
            Panel(
                "Duration of a model call",
                _quantiles("kubegym_model_request_duration_seconds", _JOB),
                "s",
                "Seen by workers, waits for capacity left out.",
            ),
            Panel(
                "Duration of a flush",
                _quantiles("kubegym_shard_flush_seconds", _JOB),
                "s",
                "Until finished rollouts are durable in the store.",
            ),
        ),
    )


def _rewards() -> Dashboard:
    return Dashboard(
        "rewards",
        "Rewards",
        "Rewards of scored rollouts. Unscored and failed ones have none, and are not in here.",
        _JOBS,
        (
            Panel(
                "Mean reward",
                (Query(f"kubegym_rolloutjob_reward_mean{_where(_NAMED)}", "{{namespace}}/{{name}}"),),
                text="Of all rollouts scored so far; at most 30 s old.",
                minimum=None,
            ),
            Panel(
                "Quantiles",
                tuple(
                    Query(
                        f"histogram_quantile({q}, {_rate('kubegym_rollout_reward_bucket', 'le')})", f"p{int(q * 100)}"
                    )
                    for q in (0.1, 0.5, 0.9)
                ),
                text="Of the rollouts that settled within the interval, as exact as the histogram's buckets.",
                minimum=None,
            ),
            Panel(
                "Distribution",
                (Query(f"sum by (le) (increase(kubegym_rollout_reward_bucket{_JOB}[$__rate_interval]))", "{{le}}"),),
                kind="heatmap",
            ),
            Panel(
                "Scored share",
                (
                    Query(
                        f"{_rate('kubegym_rollouts_total', 'rolloutjob', _where(_OF_JOB, _SCORED))}"
                        f" / {_rate('kubegym_rollouts_total', 'rolloutjob')}",
                        "{{rolloutjob}}",
                    ),
                ),
                "percentunit",
                "A mean reward says little where this falls.",
            ),
            Panel(
                "Outcomes",
                (Query(_rate("kubegym_rollouts_total", "outcome"), "{{outcome}}"),),
                "ops",
            ),
        ),
    )


def _failures() -> Dashboard:
    return Dashboard(
        "failures",
        "Failures",
        "What went wrong, by reason. The reasons are those of rows and conditions.",
        _JOBS,
        (
            Panel(
                "Rollouts without a reward",
                (
                    Query(
                        _rate("kubegym_rollouts_total", "outcome, reason", _where(_OF_JOB, _NOT_SCORED)),
                        "{{outcome}} {{reason}}",
                    ),
                ),
                "ops",
                "Failed or unscored for good.",
            ),
            Panel(
                "Attempts that were made again",
                (Query(_rate("kubegym_rollout_retries_total", "reason"), "{{reason}}"),),
                "ops",
                "Infrastructure reasons only; a reward is never drawn again.",
            ),
            Panel(
                "Failed share",
                (
                    Query(
                        f"{_of_jobs('failed')} / {_of_jobs('expected')}",
                        "{{namespace}}/{{name}}",
                    ),
                ),
                "percentunit",
                "Beyond failurePolicy.maxFailedRolloutFraction the run halts.",
            ),
            Panel(
                "Lost compare-and-swaps",
                (Query(_rate("kubegym_shard_cas_conflicts_total", "rolloutjob"), "{{rolloutjob}}"),),
                "ops",
                "A worker was fenced, or the store was unclear about a write. Harmless; many of them cost time.",
            ),
            Panel(
                "Agents: attempts without a reward",
                (
                    Query(
                        _rate("kubegym_agent_rollouts_total", "gymenvironment, reason", _where(_NOT_SCORED)),
                        "{{gymenvironment}} {{reason}}",
                    ),
                ),
                "ops",
            ),
            Panel(
                "Resources servers: refused requests",
                (
                    Query(
                        _rate(
                            "kubegym_resources_requests_total",
                            "gymenvironment, route, status",
                            _where('status=~"[45].."'),
                        ),
                        "{{gymenvironment}} {{route}} {{status}}",
                    ),
                ),
                "ops",
            ),
        ),
    )


def _queue() -> Dashboard:
    return Dashboard(
        "queue",
        "Queue",
        "Who waits for whom: rollouts for capacity, requests for the engine, environments for their parts.",
        _JOBS,
        (
            Panel(
                "Waiting time of an attempt",
                _quantiles("kubegym_rollout_queue_seconds", _JOB),
                "s",
                "For a slot, for a rate limit, for a paused model. It does not count against deadlines.",
            ),
            Panel(
                "Attempts in agents",
                (
                    Query(
                        f"sum by (gymenvironment) (kubegym_agent_rollouts_in_flight{_ENVIRONMENT})",
                        "{{gymenvironment}}",
                    ),
                ),
            ),
            Panel(
                "Requests in model servers",
                (Query(f"sum by (modelserver) (kubegym_model_server_in_flight{_ENVIRONMENT})", "{{modelserver}}"),),
            ),
            Panel(
                "Requests waiting in the engine",
                (Query(f"sum by (modelserver) (vllm:num_requests_waiting{_ENVIRONMENT})", "{{modelserver}}"),),
                text="More than the engine takes at once: more replicas or less concurrency.",
            ),
            Panel(
                "Live sessions",
                (Query(f"sum by (gymenvironment) (kubegym_resources_sessions{_ENVIRONMENT})", "{{gymenvironment}}"),),
            ),
            Panel(
                "Environments that do not serve",
                (
                    Query(
                        _environments("Serving", 0),
                        "{{namespace}}/{{name}}",
                    ),
                ),
                text="Idle and suspended ones are here, too; jobs that need one wait.",
            ),
        ),
    )


def _model() -> Dashboard:
    return Dashboard(
        "model",
        "Model",
        "Model servers and the engines beside them.",
        (
            Variable("namespace", "kubegym_model_server_in_flight"),
            Variable("modelserver", "kubegym_model_server_in_flight"),
        ),
        (
            Panel(
                "Requests",
                (
                    Query(
                        _rate("kubegym_model_server_requests_total", "modelserver, status", _MODEL),
                        "{{modelserver}} {{status}}",
                    ),
                ),
                "ops",
            ),
            Panel(
                "Duration of a request",
                _quantiles("kubegym_model_server_request_duration_seconds", _MODEL, "route"),
                "s",
            ),
            Panel(
                "Tokens",
                (
                    Query(_rate("kubegym_model_server_tokens_total", "kind", _MODEL), "{{kind}}"),
                    Query(_rate("vllm:generation_tokens_total", "modelserver", _MODEL), "{{modelserver}} generated"),
                ),
                "ops",
            ),
            Panel(
                "Tokens by run and role",
                (
                    Query(
                        _rate("kubegym_model_server_tokens_total", "run, role, kind", _MODEL),
                        "{{run}} {{role}} {{kind}}",
                    ),
                ),
                "ops",
            ),
            Panel("Time in the queue", _quantiles("kubegym_model_server_queue_seconds", _MODEL), "s"),
            Panel(
                "Where calls go",
                (Query(_rate("kubegym_model_routing_total", "decision", _ENVIRONMENT), "{{decision}}"),),
                "ops",
                "`moved` left its replica; `ejected` is a replica that kept failing, `silent` one without progress.",
            ),
            Panel(
                "Upstreams that are usable",
                (Query(f"min by (modelserver, upstream) (kubegym_model_upstream_up{_MODEL})", "{{upstream}}"),),
                kind="state-timeline",
            ),
            Panel(
                "Requests running and waiting in the engine",
                (
                    Query(f"sum by (modelserver) (vllm:num_requests_running{_MODEL})", "{{modelserver}} running"),
                    Query(f"sum by (modelserver) (vllm:num_requests_waiting{_MODEL})", "{{modelserver}} waiting"),
                ),
                text="While the engine is paused, held requests are not counted as waiting.",
            ),
            Panel(
                "Cache in use",
                (Query(f"max by (modelserver, pod) (vllm:kv_cache_usage_perc{_MODEL})", "{{pod}}"),),
                "percentunit",
            ),
            Panel("Time to the first token", _quantiles("vllm:time_to_first_token_seconds", _MODEL), "s"),
            Panel("Duration in the engine", _quantiles("vllm:e2e_request_latency_seconds", _MODEL), "s"),
            Panel(
                "Finished by",
                (Query(_rate("vllm:request_success_total", "finished_reason", _MODEL), "{{finished_reason}}"),),
                "ops",
                "`length` is a truncated answer, `abort` a caller that left.",
            ),
            Panel(
                "Preemptions and hits of the prefix cache",
                (
                    Query(_rate("vllm:num_preemptions_total", "modelserver", _MODEL), "{{modelserver}} preemptions/s"),
                    Query(
                        _share(
                            "vllm:prefix_cache_hits_total", "vllm:prefix_cache_queries_total", "modelserver", _MODEL
                        ),
                        "{{modelserver}} hit share",
                    ),
                ),
                text="vLLM only.",
            ),
        ),
    )


def _operator() -> Dashboard:
    return Dashboard(
        "operator",
        "Operator",
        "Whether the operator keeps up with the cluster.",
        (Variable("namespace", "kubegym_environment_condition"),),
        (
            Panel(
                "Leader",
                (Query("kubegym_leader", "{{pod}}"),),
                text="Exactly one pod is.",
                kind="state-timeline",
            ),
            Panel("Age of the oldest key", (Query("max(kubegym_workqueue_oldest_age_seconds)", "oldest"),), "s"),
            Panel("Keys that wait", (Query("sum(kubegym_workqueue_depth)", "depth"),)),
            Panel(
                "Reconciliations",
                (
                    Query(
                        "sum by (kind, result) (rate(kubegym_reconcile_total[$__rate_interval]))", "{{kind}} {{result}}"
                    ),
                ),
                "ops",
            ),
            Panel("Duration of a reconciliation", _quantiles("kubegym_reconcile_duration_seconds", "", "kind"), "s"),
            Panel(
                "Keys added and tried again",
                (
                    Query("sum(rate(kubegym_workqueue_adds_total[$__rate_interval]))", "added"),
                    Query("sum(rate(kubegym_workqueue_retries_total[$__rate_interval]))", "tried again"),
                ),
                "ops",
            ),
            Panel(
                "Requests to the API server",
                (
                    Query(
                        "sum by (verb, kind) (rate(kubegym_api_requests_total[$__rate_interval]))", "{{verb}} {{kind}}"
                    ),
                ),
                "ops",
                "A steady state writes nothing.",
            ),
            Panel(
                "Refused requests",
                (
                    Query(
                        'sum by (verb, kind, code) (rate(kubegym_api_requests_total{code!~"2.."}[$__rate_interval]))',
                        "{{verb}} {{kind}} {{code}}",
                    ),
                ),
                "ops",
            ),
            Panel(
                "Stalled environments",
                (
                    Query(
                        _environments("Stalled", 1),
                        "{{namespace}}/{{name}}",
                    ),
                ),
                text="`kubectl describe genv` says why.",
            ),
            Panel(
                "Time from apply to serving",
                _quantiles("kubegym_environment_ready_duration_seconds", ""),
                "s",
            ),
        ),
    )


def dashboards() -> dict[str, str]:
    """Grafana's JSON by name."""
    pages = (_throughput(), _rewards(), _failures(), _queue(), _model(), _operator())
    return {page.name: page.to_json() for page in pages}
