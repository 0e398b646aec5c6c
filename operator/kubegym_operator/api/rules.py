"""What the API server refuses, as CEL: unions, cross-field rules, immutability, names and addresses.

The models check the same for local runs; a test holds the two together. What only a cluster asks for: names that
Services can have, addresses that pods can reach, and what may not change. Messages say what to do; the API server puts
the field before them.

Costs are bounded: every string, list and map that a rule looks at has a limit in the schema, low enough for the largest
object to be read within the API server's budget (1,000,000 units a rule): 16 agents in each of 32 environments.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from pydantic import BaseModel

from kubegym.core.spec import common, environment, model, rolloutjob

MAX_NAME: Final = 40
"""Longest name of our kinds, so that what is derived from it (pods of a Job, Services) fits 63 characters."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One CEL rule of a schema node.

    Attributes:
        expression: true where the value is fine; ``self`` is the value, ``oldSelf`` (if used) the stored one.
        message: what is wrong and what to do.
        field: field of ``self`` that is at fault, such as ``version``; empty for the value itself.
    """

    expression: str
    message: str
    field: str = ""

    def to_schema(self) -> dict[str, Any]:
        """The entry of ``x-kubernetes-validations``."""
        at = {"fieldPath": f".{self.field}"} if self.field else {}
        return {"rule": self.expression, "message": self.message, **at}


@dataclass(frozen=True, slots=True)
class Pattern:
    """What a cluster takes where the models have a pattern, maybe less, and what it says to everything else."""

    pattern: str
    message: str


def _of(alias: Any) -> str:
    """The pattern of a constrained string of the models."""
    return next(str(part.pattern) for part in alias.__metadata__ if getattr(part, "pattern", None) is not None)


_FILE = "file:// works on one machine only (kubegym run)"
_ON_ONE_MACHINE = "; " + _FILE

PATTERNS: Final[dict[str, Pattern]] = {
    _of(common.DnsLabel): Pattern(
        _of(common.DnsLabel),
        "use lower-case letters, digits and '-', and begin and end with a letter or digit",
    ),
    _of(common.Image): Pattern(_of(common.Image), "write an image without spaces, such as registry/name:tag"),
    _of(common.HttpUrl): Pattern(_of(common.HttpUrl), "write an address that begins with https:// or http://"),
    _of(model.ModelUri): Pattern(
        r"^(hf|s3|gs|pvc|oci)://\S+$",
        "write hf://organisation/model, s3://, gs://, pvc://claim/path or oci://image" + _ON_ONE_MACHINE,
    ),
    _of(model.Role): Pattern(
        _of(model.Role),
        "a role is written in lower-case letters, digits, '-' and '_', and begins with a letter",
    ),
    _of(model.EngineArgName): Pattern(
        _of(model.EngineArgName), "write an argument's name without leading dashes, such as max-model-len"
    ),
    _of(rolloutjob.DatasetUri): Pattern(
        r"^(s3|gs|az|hf|https)://\S+$",
        "write s3://, gs://, az://, hf:// or https://, or use configMapRef" + _ON_ONE_MACHINE,
    ),
    _of(rolloutjob.OutputUri): Pattern(
        r"^(s3|gs|az)://\S+$",
        "write s3://bucket/prefix/, gs:// or az://: a store with conditional writes (volumes have none)"
        + _ON_ONE_MACHINE,
    ),
    _of(rolloutjob.Sha256): Pattern(
        _of(rolloutjob.Sha256), "write a SHA-256 as 64 lower-case hexadecimal digits, as sha256sum prints it"
    ),
}
"""By the pattern of the models."""

LIST_KEYS: Final[dict[str, str]] = {
    "ConditionStatus": "type",
    "EnvironmentEntry": "name",
    "FrozenEnvironmentStatus": "name",
    "ResourceClaim": "name",
}
"""The key of lists whose entries are merged by it (``x-kubernetes-list-type: map``), by the entry's model."""

IMMUTABLE: Final = (
    "environments",
    "rolloutsPerTask",
    "group",
    "sampling",
    "sharding",
    "maxPolicyVersionLag",
    "onTruncated",
    "output",
    "managedBy",
    "queue",
    "worker",
)
"""Fields of a RolloutJob's spec that decide what is collected, and where; only the pace may change."""

_OPTIONAL = frozenset({"maxPolicyVersionLag", "managedBy", "queue"})


def immutable_fields(of: type[BaseModel]) -> tuple[str, ...]:
    """Names of a model's fields that never change, as manifests write them."""
    return IMMUTABLE if of is rolloutjob.RolloutJobSpec else ()


def _immutable(field: str) -> Rule:
    """A field that stays as it was created; an optional one may neither appear nor vanish."""
    same = f"self.{field} == oldSelf.{field}"
    if field in _OPTIONAL:
        same = f"has(self.{field}) == has(oldSelf.{field}) && (!has(self.{field}) || {same})"
    return Rule(
        same,
        f"{field} is immutable: put it back, or create a new RolloutJob; only suspend, parallelism, concurrency, "
        "deadlines, ttlSecondsAfterFinished and failurePolicy may change",
        field,
    )


def _exactly_one(*fields: str) -> Rule:
    present = ", ".join(f"has(self.{field})" for field in fields)
    return Rule(f"[{present}].filter(x, x).size() == 1", f"exactly one of {', '.join(fields)} must be set")


def _decimal(field: str, high: int) -> Rule:
    return Rule(
        f"!has(self.{field}) || self.{field}.matches(r'^[0-9]{{1,3}}(\\.[0-9]{{1,16}})?$') "
        f"&& double(self.{field}) <= {high}.0",
        f'{field} is a decimal number from 0 to {high} as a string, such as "0.5"',
        field,
    )


_NO_REPLICAS_IN_WORKER = Rule(
    "self.placement != 'Worker' || !has(self.replicas)",
    "placement Worker has no pods of its own: remove replicas, and scale the RolloutJob's parallelism",
    "replicas",
)

RULES: Final[dict[type[BaseModel], tuple[Rule, ...]]] = {
    model.ResourceClaim: (_exactly_one("resourceClaimName", "resourceClaimTemplateName"),),
    model.Accelerator: (_exactly_one("resourceName", "resourceClaims"),),
    model.ModelCache: (_exactly_one("persistentVolumeClaim", "ephemeral", "image"),),
    model.ModelBinding: (_exactly_one("server", "serverRef", "endpoint"),),
    model.ModelParallelism: (
        Rule(
            "self.tensor * self.pipeline % self.nodes == 0",
            "nodes must divide tensor x pipeline: every node takes the same number of accelerators",
            "nodes",
        ),
    ),
    model.Autoscaling: (
        Rule("self.minReplicas <= self.maxReplicas", "minReplicas must not be above maxReplicas", "minReplicas"),
    ),
    model.Weights: (
        Rule(
            "self.version > oldSelf.version || (self.version == oldSelf.version && self.uri == oldSelf.uri "
            "&& self.kind == oldSelf.kind)",
            "version only grows: announce other weights, older ones too, under a number above the present one",
            "version",
        ),
    ),
    model.ModelServerSpec: (
        Rule(
            "self.engine != 'vllm' || has(self.source) || has(self.weights)",
            "engine vllm needs source or weights (engine embedded has a model of its own)",
            "source",
        ),
        Rule(
            "self.engine != 'custom' || has(self.podTemplate)",
            "engine custom needs podTemplate, with a container named engine and its image",
            "podTemplate",
        ),
        Rule(
            "self.engine != 'custom' || !has(self.engineArgs) || self.engineArgs.size() == 0",
            "engine custom has no engineArgs: write them as args of the container engine in podTemplate",
            "engineArgs",
        ),
        Rule(
            "!has(self.source) || !self.source.uri.startsWith('hf://') || has(self.source.revision) "
            "|| (has(self.cache) && has(self.cache.image))",
            "hf:// needs a revision, a commit, so that all replicas serve the same weights",
            "source.revision",
        ),
        Rule(
            "!has(self.source) || !self.source.uri.startsWith('oci://') || self.source.uri.contains('@sha256:') "
            "|| (has(self.source.revision) && self.source.revision.matches(r'^sha256:[0-9a-f]{64}$'))",
            "oci:// needs a revision, the image's digest sha256:..., unless the uri ends in it",
            "source.revision",
        ),
        Rule(
            "!has(self.weights) || has(self.source) || !self.weights.uri.startsWith('hf://') "
            "|| (has(self.cache) && has(self.cache.image))",
            "hf:// weights are not pinned to a commit: give them as source, with a revision",
            "weights.uri",
        ),
        Rule(
            "!has(self.weights) || has(self.source) || !self.weights.uri.startsWith('oci://') "
            "|| self.weights.uri.contains('@sha256:')",
            "oci:// weights without source have to end in the image's digest, @sha256:...",
            "weights.uri",
        ),
        Rule(
            "!has(self.weights) || self.weights.kind != 'Adapter' || has(self.source)",
            "weights of kind Adapter need source: the model that they adapt",
            "source",
        ),
        Rule(
            "!has(oldSelf.weights) || has(self.weights)",
            "weights stay once they are announced: to go back, announce the source's uri under a higher version",
            "weights",
        ),
    ),
    environment.ResourcesSpec: (_NO_REPLICAS_IN_WORKER,),
    environment.AgentSpec: (
        Rule(
            "self.placement != 'Worker' || !has(self.image)",
            "placement Worker runs in the worker's pod and has no image: remove image",
            "image",
        ),
        _NO_REPLICAS_IN_WORKER,
    ),
    environment.GymEnvironmentSpec: (
        Rule(
            "self.resources.placement != 'Worker' || self.agent.placement == 'Worker'",
            "resources.placement Worker needs agent.placement Worker: a process has no Service",
            "agent.placement",
        ),
    ),
    rolloutjob.Sampling: (_decimal("temperature", 2), _decimal("topP", 1)),
    rolloutjob.FailurePolicy: (_decimal("maxFailedRolloutFraction", 1),),
    rolloutjob.Dataset: (
        _exactly_one("uri", "configMapRef", "bundled"),
        Rule(
            "!has(self.revision) || !has(self.sha256)", "revision and sha256 both pin the rows: remove one", "revision"
        ),
    ),
    rolloutjob.RolloutJobSpec: (
        *map(_immutable, IMMUTABLE),
        Rule(
            "!has(self.group.minScored) || self.environments.all(e, self.group.minScored <= "
            "(has(e.rolloutsPerTask) ? e.rolloutsPerTask : self.rolloutsPerTask))",
            "minScored must not be above rolloutsPerTask of the job or of an environment: no group would be whole",
            "group.minScored",
        ),
        Rule(
            "self.environments.all(a, !has(a.agentRefs) || self.environments.all(b, a.name == b.name "
            "|| !has(b.agentRefs) || !sets.intersects(a.agentRefs, b.agentRefs)))",
            "a row has one home: name an agent in agentRefs of one environment only",
            "environments",
        ),
    ),
}
"""By the model that they belong to."""

NAME_RULES: Final = (
    Rule(
        f"size(self.metadata.name) <= {MAX_NAME}",
        f"metadata.name has at most {MAX_NAME} characters, as pods and Services are named after it: shorten it",
    ),
    Rule(
        "self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
        "metadata.name begins with a letter and has lower-case letters, digits and '-' only, as Services are named "
        "after it: rename it",
    ),
)
"""Of the object as a whole."""
