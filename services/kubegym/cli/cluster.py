"""``kubegym apply``, ``get``, ``describe`` and ``logs``: environments and runs in a cluster.

They act with the user's own rights, as kubectl does, and are also there as ``kubectl gym``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from kubegym.cli.errors import guarded, print_json
from kubegym.cli.why import ENVIRONMENT, JOB, OWNER_LABELS, SERVER, Cause, State, World, causes, state
from kubegym.core.errors import InputError, InvalidSpec

if TYPE_CHECKING:
    from kubegym.cli.kube import Cluster

Object = dict[str, Any]
Connect = Callable[[str | None], "Cluster"]

API_VERSION: Final = "kubegym.dev/v1alpha1"
KINDS: Final = {SERVER: ("ms", "modelserver"), ENVIRONMENT: ("genv", "gymenvironment"), JOB: ("rj", "rolloutjob")}
"""Our kinds in the order in which they need each other, with what users call them."""

NamespaceOption = Annotated[
    str | None, typer.Option("--namespace", "-n", metavar="NAME", help="Default: the context's.")
]
ContextOption = Annotated[str | None, typer.Option(metavar="NAME", help="Of the kubeconfig. Default: its current one.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
WhichArgument = Annotated[str, typer.Argument(metavar="[KIND/]NAME", help="A RolloutJob, unless KIND/ says otherwise.")]


class NotInCluster(InputError):
    """The cluster has no such object."""

    reason = "NotFound"


def connect(context: str | None) -> Cluster:
    """The user's cluster. Raises NoCluster."""
    from kubegym.cli.kube import RealCluster

    return RealCluster(context)


def apply(
    target: Annotated[list[str], typer.Argument(metavar="TARGET...", help="Manifest files, or environments' folders.")],
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check manifests, and apply them to a cluster."""

    def work() -> int:
        objects = [obj for word in target for obj in _read(word)]
        cluster = connect(context)
        applied = apply_all(cluster, objects, namespace or cluster.namespace)
        if as_json:
            print_json(applied)
        for obj in [] if as_json else applied:
            print(f"{obj['kind'].lower()}/{obj['metadata']['name']} applied to {obj['metadata']['namespace']}")
        return 0

    raise typer.Exit(guarded(work, as_json=as_json))


def get(
    what: Annotated[str | None, typer.Argument(metavar="[KIND][/NAME]", help="rj, genv or ms. Default: all.")] = None,
    namespace: NamespaceOption = None,
    everywhere: Annotated[bool, typer.Option("--all-namespaces", "-A", help="Of all namespaces.")] = False,
    context: ContextOption = None,
    as_json: JsonOption = False,
) -> None:
    """List a cluster's environments, model servers and runs, with their states."""

    def work() -> int:
        kind, name = (None, "") if what is None else _which(what, None)
        cluster = connect(context)
        where = None if everywhere else namespace or cluster.namespace
        objects = list(_listed(cluster, kind, name, where))
        if as_json:
            print_json(objects)
        elif not objects:
            print(f"nothing in {where or 'the cluster'}")
        else:
            _print_objects(objects, namespaces=everywhere)
        return 0

    raise typer.Exit(guarded(work, as_json=as_json))


def describe(
    what: WhichArgument, namespace: NamespaceOption = None, context: ContextOption = None, as_json: JsonOption = False
) -> None:
    """Show the state of a run, environment or model server and, where it does not move, why."""

    def work() -> int:
        kind, name = _which(what, JOB)
        cluster = connect(context)
        obj = found(cluster, kind or JOB, namespace or cluster.namespace, name)
        because = causes(obj, surroundings(cluster, obj))
        if as_json:
            now = state(obj)
            reasons = [{"who": one.who, "reason": one.reason, "message": one.message} for one in because]
            print_json({"object": obj, "state": now.word, "reason": now.reason, "why": reasons})
        else:
            print("\n".join(described(obj, because)))
        return 0

    raise typer.Exit(guarded(work, as_json=as_json))


def logs(
    what: WhichArgument,
    namespace: NamespaceOption = None,
    pod: Annotated[str | None, typer.Option(metavar="NAME", help="Only this pod.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as lines come; of one pod.")] = False,
    previous: Annotated[bool, typer.Option("--previous", help="Of containers that ended before.")] = False,
    tail: Annotated[int | None, typer.Option(metavar="N", min=0, help="The last N lines of each pod.")] = None,
    context: ContextOption = None,
) -> None:
    """Print the logs of a run's workers, or of the pods of an environment or a model server."""

    def work() -> int:
        kind, name = _which(what, JOB)
        cluster = connect(context)
        where = namespace or cluster.namespace
        owner = kind or JOB
        pods = [one["metadata"]["name"] for one in cluster.list("v1", "Pod", where, f"{OWNER_LABELS[owner]}={name}")]
        chosen = [one for one in pods if pod in (None, one)]
        if not chosen:
            found(cluster, owner, where, name)
            raise NotInCluster(f"{owner} {name} has no pod{f' {pod}' if pod else 's'} now; `kubegym describe` says why")
        if follow and len(chosen) > 1:
            raise InvalidSpec(f"--follow takes one pod; give --pod, such as --pod {chosen[0]}")
        for one in chosen:
            for line in cluster.logs(where, one, follow=follow, tail=tail, previous=previous):
                print(line if len(chosen) == 1 else f"{one}: {line}", flush=follow)
        return 0

    raise typer.Exit(guarded(work))


def apply_all(cluster: Cluster, objects: Sequence[Object], namespace: str) -> list[Object]:
    """Apply objects, those that others refer to first; what the server made of them."""
    order = list(KINDS)
    placed = [
        {**obj, "metadata": {**obj["metadata"], "namespace": obj["metadata"].get("namespace", namespace)}}
        for obj in sorted(objects, key=lambda obj: order.index(obj["kind"]))
    ]
    return [cluster.apply(obj) for obj in placed]


def found(cluster: Cluster, kind: str, namespace: str, name: str) -> Object:
    """An object of ours. Raises NotInCluster."""
    obj = cluster.get(API_VERSION, kind, namespace, name)
    if obj is not None:
        return obj
    from kubegym.core.spec import did_you_mean

    known = [one["metadata"]["name"] for one in cluster.list(API_VERSION, kind, namespace)]
    raise NotInCluster(f"there is no {kind} {name!r} in {namespace}" + did_you_mean(name, known))


def surroundings(cluster: Cluster, obj: Object) -> World:
    """All that may say why an object does not move: its namespace, and model servers that it refers to elsewhere."""
    namespace = obj["metadata"]["namespace"]
    objects = [obj, *(one for kind in (ENVIRONMENT, SERVER) for one in cluster.list(API_VERSION, kind, namespace))]
    pods = cluster.list("v1", "Pod", namespace, "app.kubernetes.io/managed-by=kubegym")
    world = World.of(objects, pods)
    elsewhere = {key for one in objects for key in _elsewhere(one) if key[1] != namespace}
    if not elsewhere:
        return world
    more = [cluster.get(API_VERSION, *key) for key in sorted(elsewhere)]
    return World.of([*objects, *(one for one in more if one is not None)], pods)


def described(obj: Object, because: Sequence[Cause]) -> Iterator[str]:
    """The lines of ``describe``."""
    now = state(obj)
    metadata = obj["metadata"]
    yield f"{obj['kind']} {metadata.get('namespace', 'default')}/{metadata['name']}: {_worded(now)}"
    for name, text in _facts(obj):
        yield f"  {name:<11}{text}"
    if because:
        yield "Why it does not move:"
    for cause in because:
        yield f"{'  ' * (cause.depth + 1)}{cause.who}: {cause.reason}" + (f": {cause.message}" if cause.message else "")


@dataclass(frozen=True)
class _Counts:
    """Rollouts of a job."""

    rollouts: dict[str, int]

    def settled(self) -> int:
        return sum(self.rollouts.get(outcome, 0) for outcome in ("scored", "unscored", "failed"))


def _facts(obj: Object) -> Iterator[tuple[str, str]]:
    status = obj.get("status") or {}
    if obj["kind"] != JOB:
        for part, counts in (status.get("parts") or {}).items():
            yield part, f"{counts.get('readyReplicas', 0)} of {counts.get('replicas', 0)} ready"
        if obj["kind"] == SERVER and "replicas" in status:
            yield "replicas", f"{status.get('readyReplicas', 0)} of {status.get('desiredReplicas', 0)} ready"
        if status.get("policyVersion") is not None:
            yield "version", f"{status['policyVersion']} of {status.get('targetPolicyVersion', '-')}"
        return
    counts = _Counts(status.get("rollouts") or {})
    if counts.rollouts:
        outcomes = ", ".join(
            f"{counts.rollouts[key]:,} {key}" for key in ("scored", "unscored", "failed") if counts.rollouts.get(key)
        )
        yield "rollouts", f"{counts.settled():,} of {counts.rollouts.get('expected', 0):,} settled: {outcomes or '-'}"
    if status.get("failures"):
        ordered = sorted(status["failures"].items(), key=lambda item: (-item[1], item[0]))
        yield "failures", ", ".join(f"{reason} {count:,}" for reason, count in ordered)
    shards = status.get("shards") or {}
    if shards:
        yield "shards", f"{shards.get('committed', 0)} of {shards.get('total', 0)} committed"
    for key, name in (
        ("rewardMean", "reward"),
        ("throughput", "rollouts/s"),
        ("workers", "workers"),
        ("lastProgressTime", "progress"),
        ("estimatedCompletionTime", "expected"),
        ("manifestUri", "manifest"),
    ):
        if status.get(key) is not None:
            yield name, str(status[key])
    yield "output", obj["spec"]["output"]["uri"]


def _worded(now: State) -> str:
    return now.word + (f" ({now.reason})" if now.reason and now.reason != now.word else "")


def _print_objects(objects: Sequence[Object], *, namespaces: bool) -> None:
    from kubegym.cli.tables import print_table

    headings = ["kind", "name", "state", "reason", "rollouts", "mean reward"]
    cells = []
    for obj in objects:
        now, status = state(obj), obj.get("status") or {}
        counts = _Counts(status.get("rollouts") or {})
        done = f"{counts.settled():,}/{counts.rollouts.get('expected', 0):,}" if counts.rollouts else "-"
        short = KINDS[obj["kind"]][0]
        row = [short, obj["metadata"]["name"], now.word, now.reason or "-", done, str(status.get("rewardMean") or "-")]
        cells.append([obj["metadata"]["namespace"], *row] if namespaces else row)
    print_table(["namespace", *headings] if namespaces else headings, cells, sys.stdout, left=5 if namespaces else 4)


def _listed(cluster: Cluster, kind: str | None, name: str, namespace: str | None) -> Iterator[Object]:
    for each in KINDS if kind is None else (kind,):
        for obj in cluster.list(API_VERSION, each, namespace):
            if name in ("", obj["metadata"]["name"]):
                yield obj


def _which(words: str, default: str | None) -> tuple[str | None, str]:
    """Kind and name of ``rj/night``; a lone word is a name where there is a default kind, else a kind."""
    kind, slash, name = words.partition("/")
    if not slash and default is not None:
        return default, words
    for known, called in KINDS.items():
        if kind.lower() in (*called, f"{called[1]}s"):
            return known, name
    from kubegym.core.spec import did_you_mean

    choices = sorted(word for called in KINDS.values() for word in called)
    raise InvalidSpec(f"no kind is called {kind!r}" + did_you_mean(kind, choices))


def _elsewhere(obj: Object) -> Iterator[tuple[str, str, str]]:
    models = [obj.get("spec", {}).get("models", {})]
    models += [entry.get("models", {}) for entry in obj.get("spec", {}).get("environments", ())]
    for binding in (binding for roles in models for binding in roles.values()):
        reference = binding.get("serverRef") or {}
        if "namespace" in reference:
            yield SERVER, reference["namespace"], reference["name"]


def _read(word: str) -> list[Object]:
    """The manifests of a file or of an environment's folder, checked. Raises InvalidManifests."""
    import yaml

    from kubegym.core.spec import parse_manifests

    path = Path(word) / "environment.yaml" if Path(word).is_dir() else Path(word)
    text = path.read_text(encoding="utf-8")
    parse_manifests(text, source=str(path))
    return [document for document in yaml.safe_load_all(text) if document]
