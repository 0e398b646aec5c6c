"""``kubegym.run``: a run from Python, also inside a running event loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kubegym.core.errors import InvalidSpec
from kubegym.core.protocols import ModelClient
from kubegym.core.tokens import Tokens
from kubegym.local.episodes import of_class
from kubegym.local.localrun import Display, LocalRun
from kubegym.local.resolve import RunFlags, resolve
from kubegym.local.results import Results, blocking, read_results
from kubegym.local.runspec import DatasetRef, Entry, ModelRef, RunSpec
from kubegym.local.tasks import BUNDLED, GIVEN
from kubegym.resources import Environment, LoadedEnvironment

AnswerFunction = Callable[[dict[str, Any]], str]
"""A model written in Python: from a chat completions request to the answer's text."""

Rows = str | Path | Sequence[Mapping[str, Any]]


def run(
    environment: type[Environment] | str | Path,
    *,
    model: str | ModelClient | AnswerFunction | None = None,
    base_url: str | None = None,
    engine: str | None = None,
    dataset: Rows | None = None,
    n: int | None = None,
    rollouts_per_task: int | None = None,
    concurrency: int | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    max_output_tokens: int | None = None,
    seed: int | None = None,
    config: Mapping[str, Any] | None = None,
    output: str | Path | None = None,
    tokens: Tokens | None = None,
    max_policy_version_lag: int | None = None,
    display: Display | None = None,
) -> Results:
    """Collect rollouts and return them.

    The same call again resumes or, when finished, only reads. Works in a notebook: inside a running event loop the run
    has a thread and a loop of its own.

    Args:
        environment: an Environment class, a folder, an installed name, or a manifest file.
        model: a model's name (with ``base_url`` or ``engine``), a ModelClient, or a function from a chat completions
            request to the answer's text. Default: what the manifest says, else the embedded model.
        base_url: an OpenAI-compatible endpoint, with ``/v1``.
        engine: ``embedded`` or ``simulated``.
        dataset: a file or URL, or rows; default the environment's example rows.
        n: tasks to take, from the beginning.
        rollouts_per_task: size of a group.
        concurrency: rollouts in flight.
        temperature: sampling, over the rows' own, as the next three.
        top_p: likewise.
        max_output_tokens: likewise.
        seed: each call gets a seed of its own that follows from this one; without it none is sent.
        config: the environment's configuration, over the manifest's.
        output: folder or URL; default ``runs/<environment>/<digest>``.
        tokens: ``Samples`` keeps token ids and log-probs beside the rows (``Results.samples``), ``Inline`` in them.
        max_policy_version_lag: policy versions that may pass while a rollout runs; an older one is marked stale.
        display: shows how it goes; default nothing.

    Raises:
        InputError: something that was given cannot be used; nothing was run.
        ModelError: the endpoint is not there; nothing was run.
        RunFailed: too many rollouts failed; what is finished is saved.
    """
    named = model if isinstance(model, str) else None
    if engine not in (None, "embedded", "simulated"):
        raise InvalidSpec(f"engine is 'embedded' or 'simulated', not {engine!r}")
    rows = None if dataset is None or isinstance(dataset, str | Path) else list(dataset)
    flags = RunFlags(
        dataset=None if dataset is None else GIVEN if rows is not None else str(dataset),
        base_url=base_url,
        model=named,
        engine=engine,  # type: ignore[arg-type]  # checked above
        limit=n,
        rollouts_per_task=rollouts_per_task,
        concurrency=concurrency,
        temperature=temperature,
        top_p=top_p,
        max_output_tokens=max_output_tokens,
        seed=seed,
        output=None if output is None else str(output),
        tokens=tokens,
        max_policy_version_lag=max_policy_version_lag,
    )
    classes: dict[str, LoadedEnvironment] = {}
    if isinstance(environment, type):
        spec = _of_class(environment, flags, classes)
    else:
        spec = resolve([str(environment)], flags)
    if config is not None:
        spec = replace(spec, entries=tuple(replace(e, config={**e.config, **config}) for e in spec.entries))
    client = None if model is None or isinstance(model, str) else as_client(model)
    if client is not None:
        spec = with_policy(spec, ModelRef("endpoint", client.model))
    given = None if rows is None else {spec.entries[0].name: rows}
    work = LocalRun(spec, classes=classes, clients={"policy": client} if client else None, rows=given, display=display)
    return blocking(_run(work))


async def _run(work: LocalRun) -> Results:
    result = await work.run()
    return await read_results(result.output)


def _of_class(cls: type[Environment], flags: RunFlags, classes: dict[str, LoadedEnvironment]) -> RunSpec:
    """A run of a class: its policy defaults to the embedded model, its rows to those beside its module."""
    loaded = of_class(cls)
    classes[loaded.name] = loaded
    policy = flags.policy() or ModelRef("embedded", "tiny")
    dataset = DatasetRef(flags.dataset or BUNDLED, limit=flags.limit)
    entry = Entry(
        name=loaded.name,
        environment=f"{cls.__module__}:{cls.__qualname__}",
        models={"policy": policy},
        dataset=dataset,
        rollouts_per_task=flags.rollouts_per_task or 1,
        sampling=flags.sampling(),
        seed=flags.seed,
    )
    return RunSpec(
        name=loaded.name,
        entries=(entry,),
        output=flags.output,
        concurrency=flags.concurrency or 32,
        tokens=flags.tokens or "None",
        max_policy_version_lag=flags.max_policy_version_lag,
    )


def with_policy(spec: RunSpec, policy: ModelRef) -> RunSpec:
    """The spec with this policy model in every entry."""
    entries = tuple(replace(entry, models={**entry.models, "policy": policy}) for entry in spec.entries)
    return replace(spec, entries=entries)


def as_client(model: ModelClient | AnswerFunction) -> ModelClient:
    """A ModelClient as it is; a function as an engine in this process."""
    if not callable(model):
        return model
    from kubegym.model.engine_client import EngineClient
    from kubegym.model.simulated import Answers, SimulatedConfig, SimulatedEngine

    name = getattr(model, "__name__", "function")
    return EngineClient(SimulatedEngine(SimulatedConfig(model=name, answers=Answers(function=model))))
