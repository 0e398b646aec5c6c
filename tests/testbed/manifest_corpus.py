"""Manifests that are fine and manifests that are not, for both readers: the models and the API server.

Each case changes one thing of a small valid manifest. ``says`` is what the API server answers; the models say the same
in their own words, and refuse exactly the same manifests, except where ``locally`` says that one machine can do more.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

API_VERSION = "kubegym.dev/v1alpha1"

Spec = dict[str, Any]

ENTRY: Spec = {"name": "math", "environmentRef": {"name": "math"}, "dataset": {"bundled": {}}}
SPECS: dict[str, Spec] = {
    "GymEnvironment": {},
    "ModelServer": {"engine": "embedded"},
    "RolloutJob": {"environments": [ENTRY], "output": {"uri": "s3://bucket/run/"}},
}

LARGE_SERVER: Spec = {
    "source": {"uri": "s3://" + "b" * 1019},
    "engineArgs": {f"argument-{i}": "x" * 64 for i in range(64)},
    "accelerator": {"resourceName": "r" * 253},
}


def manifest(kind: str, spec: Spec | None = None, name: str = "x") -> dict[str, Any]:
    """A manifest; without a spec, the smallest one of its kind."""
    chosen = SPECS[kind] if spec is None else spec
    return {
        "apiVersion": API_VERSION,
        "kind": kind,
        "metadata": {"name": name},
        "spec": copy.deepcopy(chosen),
    }


def changed(base: Spec, change: Spec) -> Spec:
    """A JSON merge patch: None removes a field."""
    result = copy.deepcopy(base)
    for key, value in change.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = changed(result[key], value)
        else:
            result[key] = copy.deepcopy(value)
    return result


def job(**entry: Any) -> Spec:
    """A change of a RolloutJob's only entry."""
    return {"environments": [changed(ENTRY, entry)]}


def dataset(**fields: Any) -> Spec:
    """A change of that entry's dataset."""
    return job(dataset={"bundled": None, **fields})


@dataclass(frozen=True)
class Case:
    """One manifest.

    Attributes:
        id: of the test.
        kind: of the manifest.
        change: merge patch of its smallest spec.
        at: field that the answer names, below ``spec``; empty where the manifest is fine.
        says: part of what the API server answers.
        locally: whether the models refuse it, too.
        name: the object's.
    """

    id: str
    kind: str
    change: Spec = field(default_factory=dict)
    at: str = ""
    says: str = ""
    locally: bool = True
    name: str = "x"

    @property
    def manifest(self) -> dict[str, Any]:
        """The manifest itself."""
        return manifest(self.kind, changed(SPECS[self.kind], self.change), self.name)

    @property
    def fine(self) -> bool:
        """Whether the API server takes it."""
        return not self.says


@dataclass(frozen=True)
class Update:
    """A change of a stored object: ``before`` and ``after`` are merge patches of the smallest spec.

    ``says`` is what the API server answers, empty where the change is fine; ``at`` the field that it names.
    """

    id: str
    kind: str
    before: Spec
    after: Spec
    at: str = ""
    says: str = ""


_DNS = "use lower-case letters, digits and '-', and begin and end with a letter or digit"
_ONE_OF = "exactly one of {} must be set"
_LOCAL = "file:// works on one machine only (kubegym run)"
_NO_PODS = "placement Worker has no pods of its own: remove replicas, and scale the RolloutJob's parallelism"
_WORKER = {"placement": "Worker"}
_CLAIMS = {
    "name": "gpu",
    "resourceClaimTemplateName": "gpus",
}

GYM_ENVIRONMENTS = [
    Case("environment-smallest", "GymEnvironment"),
    Case("environment-parts", "GymEnvironment", {"resources": {"replicas": 3, "compute": {"requests": {"cpu": 2}}}}),
    Case("environment-worker", "GymEnvironment", {"resources": _WORKER, "agent": _WORKER}),
    Case("environment-agent-worker", "GymEnvironment", {"agent": _WORKER}),
    Case("environment-longest-name", "GymEnvironment", name="x" * 40),
    Case("environment-unbounded-config", "GymEnvironment", {"resources": {"config": {"a": {"b": [1, "x", None]}}}}),
    Case(
        "environment-unreachable-resources",
        "GymEnvironment",
        {"resources": _WORKER},
        "agent.placement",
        "resources.placement Worker needs agent.placement Worker: a process has no Service",
    ),
    Case(
        "environment-image-in-worker",
        "GymEnvironment",
        {"agent": _WORKER | {"image": "registry/agent:1"}},
        "agent.image",
        "has no image: remove image",
    ),
    Case(
        "environment-agents-in-worker",
        "GymEnvironment",
        {"agent": _WORKER | {"replicas": 2}},
        "agent.replicas",
        _NO_PODS,
    ),
    Case(
        "environment-resources-in-worker",
        "GymEnvironment",
        {"resources": _WORKER | {"replicas": 2}, "agent": _WORKER},
        "resources.replicas",
        _NO_PODS,
    ),
    Case(
        "environment-image-with-space",
        "GymEnvironment",
        {"resources": {"image": "a b"}},
        "resources.image",
        "write an image without spaces",
    ),
    Case(
        "environment-image-too-long",
        "GymEnvironment",
        {"agent": {"image": "a" * 513}},
        "agent.image",
        "may not be more than 512",
    ),
    Case(
        "environment-no-quantity",
        "GymEnvironment",
        {"resources": {"compute": {"limits": {"memory": "much"}}}},
        "resources.compute.limits.memory",
        "should match '^[0-9]+",
    ),
    Case(
        "environment-negative-quantity",
        "GymEnvironment",
        {"resources": {"compute": {"limits": {"cpu": -2}}}},
        "resources.compute.limits.cpu",
        "greater than or equal to 0",
    ),
    Case(
        "environment-placement",
        "GymEnvironment",
        {"agent": {"placement": "Pod"}},
        "agent.placement",
        'supported values: "Service", "Worker"',
    ),
    Case(
        "environment-timeout",
        "GymEnvironment",
        {"rolloutTimeoutSeconds": 0},
        "rolloutTimeoutSeconds",
        "greater than or equal to 1",
    ),
    Case(
        "environment-fractional",
        "GymEnvironment",
        {"rolloutTimeoutSeconds": 1.5},
        "rolloutTimeoutSeconds",
        "must be of type integer",
    ),
    Case("environment-typo", "GymEnvironment", {"agnt": {}}, "agnt", "unknown field"),
    Case(
        "environment-role",
        "GymEnvironment",
        {"models": {"Policy": {"serverRef": {"name": "a"}}}},
        "models",
        "a role is written in lower-case letters",
    ),
    Case(
        "environment-long-role",
        "GymEnvironment",
        {"models": {"r" * 33: {"serverRef": {"name": "a"}}}},
        "models",
        "a name has at most 32 characters: shorten it",
    ),
    Case(
        "environment-long-resource",
        "GymEnvironment",
        {"agent": {"compute": {"limits": {"r" * 254: "1"}}}},
        "agent.compute.limits",
        "a name has at most 253 characters: shorten it",
    ),
    Case(
        "environment-roles",
        "GymEnvironment",
        {"models": {f"role{i}": {"serverRef": {"name": "a"}} for i in range(9)}},
        "models",
        "must have at most 8 items",
    ),
    Case(
        "environment-two-models",
        "GymEnvironment",
        {"models": {"policy": {"serverRef": {"name": "a"}, "endpoint": {"baseUrl": "https://h/v1", "model": "m"}}}},
        "models[policy]",
        _ONE_OF.format("server, serverRef, endpoint"),
    ),
    Case(
        "environment-no-model",
        "GymEnvironment",
        {"models": {"policy": {}}},
        "models[policy]",
        _ONE_OF.format("server, serverRef, endpoint"),
    ),
    Case(
        "environment-base-url",
        "GymEnvironment",
        {"models": {"policy": {"endpoint": {"baseUrl": "h/v1", "model": "m"}}}},
        "models[policy].endpoint.baseUrl",
        "write an address that begins with https:// or http://",
    ),
    Case(
        "environment-inline-server",
        "GymEnvironment",
        {"models": {"policy": {"server": {}}}},
        "models[policy].server.source",
        "engine vllm needs source or weights",
    ),
    Case("environment-long-name", "GymEnvironment", {}, "", "metadata.name has at most 40 characters", False, "x" * 41),
    Case("environment-name-with-dot", "GymEnvironment", {}, "", "metadata.name begins with a letter", True, "a.b"),
    Case("environment-name-with-digit", "GymEnvironment", {}, "", "metadata.name begins with a letter", False, "2d"),
]

MODEL_SERVERS = [
    Case("server-smallest", "ModelServer"),
    Case("server-source", "ModelServer", {"engine": "vllm", "source": {"uri": "hf://org/model", "revision": "abc"}}),
    Case("server-weights", "ModelServer", {"engine": "vllm", "weights": {"uri": "s3://b/p", "version": 0}}),
    Case("server-largest-version", "ModelServer", {"weights": {"uri": "s3://b/p", "version": 2**63 - 1}}),
    Case("server-no-replicas", "ModelServer", {"replicas": 0}),
    Case("server-flag", "ModelServer", {"engineArgs": {"enable-prefix-caching": "", "max_model_len": "32768"}}),
    Case("server-claims", "ModelServer", {"accelerator": {"resourceClaims": [_CLAIMS]}}),
    Case("server-spread", "ModelServer", {"parallelism": {"tensor": 8, "pipeline": 2, "nodes": 2}}),
    Case("server-custom", "ModelServer", {"engine": "custom", "podTemplate": {"spec": {"containers": []}}}),
    Case(
        "server-no-weights",
        "ModelServer",
        {"engine": "vllm"},
        "source",
        "engine vllm needs source or weights (engine embedded has a model of its own)",
    ),
    Case("server-default-engine", "ModelServer", {"engine": None}, "source", "engine vllm needs source or weights"),
    Case(
        "server-adapter-of-nothing",
        "ModelServer",
        {"weights": {"uri": "s3://b/p", "version": 1, "kind": "Adapter"}},
        "source",
        "weights of kind Adapter need source: the model that they adapt",
    ),
    Case(
        "server-adapter",
        "ModelServer",
        {
            "source": {"uri": "hf://o/m", "revision": "a"},
            "weights": {"uri": "s3://b/p", "version": 1, "kind": "Adapter"},
        },
    ),
    Case(
        "server-custom-arguments",
        "ModelServer",
        {"engine": "custom", "podTemplate": {}, "engineArgs": {"a": "b"}},
        "engineArgs",
        "engine custom has no engineArgs: write them as args of the container engine in podTemplate",
    ),
    Case("server-image", "ModelServer", {"source": {"uri": "oci://r/m@sha256:" + "0" * 64}}),
    Case(
        "server-image-by-revision", "ModelServer", {"source": {"uri": "oci://r/m:1", "revision": "sha256:" + "0" * 64}}
    ),
    Case("server-image-cache", "ModelServer", {"source": {"uri": "hf://o/m"}, "cache": {"image": "r/m:1"}}),
    Case(
        "server-hub-not-pinned",
        "ModelServer",
        {"source": {"uri": "hf://o/m"}},
        "source.revision",
        "hf:// needs a revision, a commit, so that all replicas serve the same weights",
        False,
    ),
    Case(
        "server-image-not-pinned",
        "ModelServer",
        {"source": {"uri": "oci://r/m:1", "revision": "main"}},
        "source.revision",
        "oci:// needs a revision, the image's digest sha256:..., unless the uri ends in it",
        False,
    ),
    Case("server-weights-alone", "ModelServer", {"engine": "vllm", "weights": {"uri": "s3://b/step-7/", "version": 7}}),
    Case(
        "server-weights-alone-not-pinned",
        "ModelServer",
        {"weights": {"uri": "hf://o/m", "version": 1}},
        "weights.uri",
        "hf:// weights are not pinned to a commit: give them as source, with a revision",
        False,
    ),
    Case(
        "server-weights-image-not-pinned",
        "ModelServer",
        {"weights": {"uri": "oci://r/m:1", "version": 1}},
        "weights.uri",
        "oci:// weights without source have to end in the image's digest, @sha256:...",
        False,
    ),
    Case(
        "server-custom-without-pod",
        "ModelServer",
        {"engine": "custom"},
        "podTemplate",
        "engine custom needs podTemplate, with a container named engine and its image",
    ),
    Case("server-local-source", "ModelServer", {"source": {"uri": "file:///models/a"}}, "source.uri", _LOCAL, False),
    Case(
        "server-local-weights",
        "ModelServer",
        {"weights": {"uri": "file:///a", "version": 1}},
        "weights.uri",
        _LOCAL,
        False,
    ),
    Case("server-uri", "ModelServer", {"source": {"uri": "org/model"}}, "source.uri", "write hf://organisation/model"),
    Case(
        "server-uri-too-long",
        "ModelServer",
        {"source": {"uri": "s3://" + "b" * 1024}},
        "source.uri",
        "may not be more than 1024",
    ),
    Case(
        "server-version-missing", "ModelServer", {"weights": {"uri": "s3://b/p"}}, "weights.version", "Required value"
    ),
    Case(
        "server-version-negative",
        "ModelServer",
        {"weights": {"uri": "s3://b/p", "version": -1}},
        "weights.version",
        "greater than or equal to 0",
    ),
    Case(
        "server-uneven",
        "ModelServer",
        {"parallelism": {"tensor": 4, "nodes": 3}},
        "parallelism.nodes",
        "nodes must divide tensor x pipeline: every node takes the same number of accelerators",
    ),
    Case(
        "server-bounds",
        "ModelServer",
        {"autoscaling": {"minReplicas": 3, "maxReplicas": 2}},
        "autoscaling.minReplicas",
        "minReplicas must not be above maxReplicas",
    ),
    Case(
        "server-accelerator-none",
        "ModelServer",
        {"accelerator": {}},
        "accelerator",
        _ONE_OF.format("resourceName, resourceClaims"),
    ),
    Case(
        "server-accelerator-both",
        "ModelServer",
        {"accelerator": {"resourceName": "nvidia.com/gpu", "resourceClaims": [_CLAIMS]}},
        "accelerator",
        _ONE_OF.format("resourceName, resourceClaims"),
    ),
    Case(
        "server-claim-without-origin",
        "ModelServer",
        {"accelerator": {"resourceClaims": [{"name": "gpu"}]}},
        "accelerator.resourceClaims[0]",
        _ONE_OF.format("resourceClaimName, resourceClaimTemplateName"),
    ),
    Case(
        "server-claims-of-one-name",
        "ModelServer",
        {"accelerator": {"resourceClaims": [_CLAIMS, _CLAIMS]}},
        "accelerator.resourceClaims[1]",
        "Duplicate value",
    ),
    Case(
        "server-claims-empty",
        "ModelServer",
        {"accelerator": {"resourceClaims": []}},
        "accelerator.resourceClaims",
        "at least 1 items",
    ),
    Case(
        "server-cache",
        "ModelServer",
        {"cache": {"image": "a", "ephemeral": {}}},
        "cache",
        _ONE_OF.format("persistentVolumeClaim, ephemeral, image"),
    ),
    Case(
        "server-argument-with-dashes",
        "ModelServer",
        {"engineArgs": {"--max-model-len": "1"}},
        "engineArgs",
        "write an argument's name without leading dashes, such as max-model-len",
    ),
    Case(
        "server-argument-no-text",
        "ModelServer",
        {"engineArgs": {"max-model-len": 1}},
        "engineArgs.max-model-len",
        "must be of type string",
    ),
    Case(
        "server-arguments",
        "ModelServer",
        {"engineArgs": {f"a{i}": "" for i in range(65)}},
        "engineArgs",
        "must have at most 64 items",
    ),
    Case(
        "server-long-argument",
        "ModelServer",
        {"engineArgs": {"a" * 65: ""}},
        "engineArgs",
        "a name has at most 64 characters: shorten it",
    ),
    Case("server-queue", "ModelServer", {"queue": {"name": "GPU"}}, "queue.name", _DNS),
    Case(
        "server-engine",
        "ModelServer",
        {"engine": "tgi"},
        "engine",
        'supported values: "vllm", "custom", "embedded", "simulated"',
    ),
    Case("server-replicas", "ModelServer", {"replicas": -1}, "replicas", "greater than or equal to 0"),
    Case("server-long-name", "ModelServer", {}, "", "metadata.name has at most 40 characters", False, "x" * 41),
]

ROLLOUT_JOBS = [
    Case("job-smallest", "RolloutJob"),
    Case("job-fractions", "RolloutJob", {"sampling": {"temperature": "0", "topP": "1.0"}}),
    Case("job-hottest", "RolloutJob", {"sampling": {"temperature": "2.00"}}),
    Case("job-largest-seed", "RolloutJob", {"sampling": {"seed": 2**63 - 1}}),
    Case("job-paused", "RolloutJob", {"parallelism": 0}),
    Case("job-hub", "RolloutJob", dataset(uri="hf://org/set/train.jsonl", revision="main")),
    Case("job-config-map", "RolloutJob", dataset(configMapRef={"name": "rows"})),
    Case("job-multikueue", "RolloutJob", {"managedBy": "kueue.x-k8s.io/multikueue"}),
    Case(
        "job-mixture",
        "RolloutJob",
        {"environments": [ENTRY | {"agentRefs": ["a", "b"]}, ENTRY | {"name": "other", "agentRefs": ["c"]}]},
    ),
    Case(
        "job-largest",  # within what rules may cost
        "RolloutJob",
        {
            "environments": [
                ENTRY
                | {
                    "name": f"e{e}",
                    "agentRefs": [f"{a}-{e}".rjust(253, "x") for a in range(16)],
                    "models": {f"role{m}": {"server": LARGE_SERVER} for m in range(8)},
                }
                for e in range(32)
            ]
        },
    ),
    Case("job-groups", "RolloutJob", {"rolloutsPerTask": 8, "group": {"minScored": 8}}),
    Case("job-groups-of-an-entry", "RolloutJob", job(rolloutsPerTask=4) | {"group": {"minScored": 4}}),
    Case("job-no-output", "RolloutJob", {"output": None}, "output", "Required value"),
    Case("job-no-environment", "RolloutJob", {"environments": []}, "environments", "at least 1 items"),
    Case(
        "job-too-many-environments",
        "RolloutJob",
        {"environments": [ENTRY | {"name": f"e{i}"} for i in range(33)]},
        "environments",
        "must have at most 32 items",
    ),
    Case("job-same-name", "RolloutJob", {"environments": [ENTRY, ENTRY]}, "environments[1]", "Duplicate value"),
    Case(
        "job-two-homes",
        "RolloutJob",
        {"environments": [ENTRY | {"agentRefs": ["a", "b"]}, ENTRY | {"name": "other", "agentRefs": ["b"]}]},
        "environments",
        "a row has one home: name an agent in agentRefs of one environment only",
    ),
    Case(
        "job-agents",
        "RolloutJob",
        job(agentRefs=[f"agent-{i}" for i in range(17)]),
        "environments[0].agentRefs",
        "must have at most 16 items",
    ),
    Case("job-agent-twice", "RolloutJob", job(agentRefs=["a", "a"]), "environments[0].agentRefs[1]", "Duplicate value"),
    Case("job-entry-name", "RolloutJob", job(name="Math"), "environments[0].name", _DNS),
    Case("job-local-output", "RolloutJob", {"output": {"uri": "file:///tmp/x"}}, "output.uri", _LOCAL, False),
    Case(
        "job-volume-output",
        "RolloutJob",
        {"output": {"uri": "pvc://claim/x"}},
        "output.uri",
        "a store with conditional writes (volumes have none)",
    ),
    Case(
        "job-local-dataset",
        "RolloutJob",
        dataset(uri="file:///tmp/x.jsonl"),
        "environments[0].dataset.uri",
        _LOCAL,
        False,
    ),
    Case(
        "job-dataset-uri",
        "RolloutJob",
        dataset(uri="ftp://h/x"),
        "environments[0].dataset.uri",
        "write s3://, gs://, az://, hf:// or https://",
    ),
    Case(
        "job-no-rows", "RolloutJob", dataset(), "environments[0].dataset", _ONE_OF.format("uri, configMapRef, bundled")
    ),
    Case(
        "job-rows-twice",
        "RolloutJob",
        dataset(uri="s3://b/x", bundled={}),
        "environments[0].dataset",
        _ONE_OF.format("uri, configMapRef, bundled"),
    ),
    Case(
        "job-two-pins",
        "RolloutJob",
        dataset(uri="hf://o/x", revision="main", sha256="0" * 64),
        "environments[0].dataset.revision",
        "revision and sha256 both pin the rows: remove one",
    ),
    Case(
        "job-sha256",
        "RolloutJob",
        dataset(uri="s3://b/x", sha256="A" * 64),
        "environments[0].dataset.sha256",
        "write a SHA-256 as 64 lower-case hexadecimal digits",
    ),
    Case(
        "job-endpoint",
        "RolloutJob",
        {"output": {"endpoint": "minio:9000"}},
        "output.endpoint",
        "write an address that begins with https:// or http://",
    ),
    Case(
        "job-too-hot",
        "RolloutJob",
        {"sampling": {"temperature": "2.01"}},
        "sampling.temperature",
        'temperature is a decimal number from 0 to 2 as a string, such as "0.5"',
    ),
    Case("job-hot", "RolloutJob", {"sampling": {"temperature": "hot"}}, "sampling.temperature", "from 0 to 2"),
    Case(
        "job-negative",
        "RolloutJob",
        {"sampling": {"topP": "-0.1"}},
        "sampling.topP",
        "topP is a decimal number from 0 to 1",
    ),
    Case("job-float", "RolloutJob", {"sampling": {"topP": 0.9}}, "sampling.topP", "must be of type string"),
    Case(
        "job-long-fraction",
        "RolloutJob",
        {"sampling": {"topP": "0." + "1" * 19}},
        "sampling.topP",
        "may not be more than 20",
    ),
    Case(
        "job-entry-too-hot",
        "RolloutJob",
        job(sampling={"temperature": "3"}),
        "environments[0].sampling.temperature",
        "from 0 to 2",
    ),
    Case(
        "job-budget",
        "RolloutJob",
        {"failurePolicy": {"maxFailedRolloutFraction": "1.5"}},
        "failurePolicy.maxFailedRolloutFraction",
        "maxFailedRolloutFraction is a decimal number from 0 to 1",
    ),
    Case(
        "job-group-never-whole",
        "RolloutJob",
        {"rolloutsPerTask": 4, "group": {"minScored": 5}},
        "group.minScored",
        "minScored must not be above rolloutsPerTask",
    ),
    Case(
        "job-entry-never-whole",
        "RolloutJob",
        job(rolloutsPerTask=2) | {"rolloutsPerTask": 8, "group": {"minScored": 4}},
        "group.minScored",
        "minScored must not be above rolloutsPerTask",
    ),
    Case(
        "job-manager",
        "RolloutJob",
        {"managedBy": "me"},
        "managedBy",
        '"kubegym.dev/operator", "kueue.x-k8s.io/multikueue"',
    ),
    Case("job-parallelism", "RolloutJob", {"parallelism": 10_001}, "parallelism", "less than or equal to 10000"),
    Case("job-typo", "RolloutJob", {"paralelism": 3}, "paralelism", "unknown field"),
    Case("job-long-name", "RolloutJob", {}, "", "metadata.name has at most 40 characters", False, "x" * 41),
]

CASES = [*GYM_ENVIRONMENTS, *MODEL_SERVERS, *ROLLOUT_JOBS]

_WEIGHTS = {"weights": {"uri": "s3://b/one", "version": 7}}
_GROWS = "version only grows: announce other weights, older ones too, under a number above the present one"
_STAYS = "is immutable: put it back, or create a new RolloutJob"


def _announce(**fields: Any) -> Spec:
    return {"weights": _WEIGHTS["weights"] | fields}


UPDATES = [
    Update("weights-appear", "ModelServer", {}, _WEIGHTS),
    Update("weights-grow", "ModelServer", _WEIGHTS, _announce(uri="s3://b/two", version=8)),
    Update("weights-other-way", "ModelServer", _WEIGHTS, _announce(onUpdate="Abort")),
    Update("weights-shrink", "ModelServer", _WEIGHTS, _announce(version=6), "weights.version", _GROWS),
    Update("weights-same-number", "ModelServer", _WEIGHTS, _announce(uri="s3://b/two"), "weights.version", _GROWS),
    Update("weights-other-kind", "ModelServer", _WEIGHTS, _announce(kind="Adapter"), "weights.version", _GROWS),
    Update("weights-vanish", "ModelServer", _WEIGHTS, {}, "weights", "weights stay once they are announced"),
    Update("server-other-engine", "ModelServer", {}, {"engine": "simulated"}),
    Update(
        "inline-weights-shrink",
        "GymEnvironment",
        {"models": {"policy": {"server": {"engine": "embedded", **_WEIGHTS}}}},
        {"models": {"policy": {"server": {"engine": "embedded", **_announce(version=6)}}}},
        "models[policy].server.weights.version",
        _GROWS,
    ),
    Update("environment-config", "GymEnvironment", {}, {"resources": {"config": {"a": 1}}}),
    Update("job-suspend", "RolloutJob", {}, {"suspend": True}),
    Update("job-other-parallelism", "RolloutJob", {}, {"parallelism": 9}),
    Update("job-concurrency", "RolloutJob", {}, {"concurrency": 9}),
    Update("job-deadlines", "RolloutJob", {}, {"activeDeadlineSeconds": 9, "preRunningDeadlineSeconds": 9}),
    Update("job-ttl", "RolloutJob", {"ttlSecondsAfterFinished": 9}, {}),
    Update("job-failure-policy", "RolloutJob", {}, {"failurePolicy": {"backoffLimit": 9}}),
    Update("job-rollouts", "RolloutJob", {}, {"rolloutsPerTask": 2}, "rolloutsPerTask", _STAYS),
    Update("job-limit", "RolloutJob", job(dataset={"limit": 5}), job(dataset={"limit": 6}), "environments", _STAYS),
    Update("job-limit-appears", "RolloutJob", {}, job(dataset={"limit": 6}), "environments", _STAYS),
    Update("job-limit-vanishes", "RolloutJob", job(dataset={"limit": 6}), {}, "environments", _STAYS),
    Update(
        "job-entry-appears", "RolloutJob", {}, {"environments": [ENTRY, ENTRY | {"name": "b"}]}, "environments", _STAYS
    ),
    Update("job-sampling-appears", "RolloutJob", {}, {"sampling": {"seed": 1}}, "sampling", _STAYS),
    Update("job-sampling-vanishes", "RolloutJob", {"sampling": {"seed": 1}}, {}, "sampling", _STAYS),
    Update(
        "job-extra-body",  # kept without a schema, and compared all the same
        "RolloutJob",
        {"sampling": {"extraBody": {"a": {"b": [1]}}}},
        {"sampling": {"extraBody": {"a": {"b": [2]}}}},
        "sampling",
        _STAYS,
    ),
    Update(
        "job-chat-template",
        "RolloutJob",
        job(sampling={"chatTemplateKwargs": {"enable_thinking": True}}),
        job(sampling={"chatTemplateKwargs": {"enable_thinking": False}}),
        "environments",
        _STAYS,
    ),
    Update("job-group", "RolloutJob", {}, {"group": {"dropZeroVariance": True}}, "group", _STAYS),
    Update("job-sharding", "RolloutJob", {}, {"sharding": {"tasksPerShard": 1}}, "sharding", _STAYS),
    Update(
        "job-lag-appears",
        "RolloutJob",
        {},
        {"maxPolicyVersionLag": 1},
        "maxPolicyVersionLag",
        "maxPolicyVersionLag " + _STAYS,
    ),
    Update(
        "job-lag-vanishes",
        "RolloutJob",
        {"maxPolicyVersionLag": 1},
        {},
        "maxPolicyVersionLag",
        "maxPolicyVersionLag " + _STAYS,
    ),
    Update(
        "job-lag",
        "RolloutJob",
        {"maxPolicyVersionLag": 1},
        {"maxPolicyVersionLag": 2},
        "",
        "maxPolicyVersionLag " + _STAYS,
    ),
    Update("job-truncated", "RolloutJob", {}, {"onTruncated": "Skip"}, "onTruncated", _STAYS),
    Update("job-output", "RolloutJob", {}, {"output": {"uri": "s3://bucket/other/"}}, "output", _STAYS),
    Update(
        "job-manager-appears",
        "RolloutJob",
        {},
        {"managedBy": "kubegym.dev/operator"},
        "managedBy",
        "managedBy " + _STAYS,
    ),
    Update("job-queue-appears", "RolloutJob", {}, {"queue": {"name": "q"}}, "queue", "queue " + _STAYS),
    Update("job-queue", "RolloutJob", {"queue": {"name": "q"}}, {"queue": {"name": "r"}}, "queue", "queue " + _STAYS),
    Update(
        "job-pod-template",
        "RolloutJob",
        {"worker": {"podTemplate": {"spec": {"nodeName": "a"}}}},
        {"worker": {"podTemplate": {"spec": {"nodeName": "b"}}}},
        "worker",
        _STAYS,
    ),
]
