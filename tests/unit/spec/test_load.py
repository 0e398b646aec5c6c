"""Manifests from YAML: what is accepted, and that every problem is named by file, line and field."""

from __future__ import annotations

from pathlib import Path

import pytest

from kubegym.core.errors import InvalidSpec
from kubegym.core.spec import (
    GymEnvironment,
    InvalidManifests,
    ModelServer,
    RolloutJob,
    load_manifests,
    manifest_from,
    parse_manifests,
)

pytestmark = pytest.mark.unit

ENVIRONMENT = """\
apiVersion: kubegym.dev/v1alpha1
kind: GymEnvironment
metadata:
  name: math
  labels: {app.kubernetes.io/version: 1.2.0}
  annotations: {kubegym.dev/capabilities: "tools, multi-turn", other/thing: x}
spec:
  models:
    policy:
      server: {engine: embedded}
    judge:
      endpoint: {baseUrl: https://models.example/v1, model: judge, apiKeySecretRef: {name: keys, key: judge}}
  agent: {maxSteps: 6}
"""

JOB = """\
apiVersion: kubegym.dev/v1alpha1
kind: RolloutJob
metadata: {name: math}
spec:
  environments:
  - name: math
    environmentRef: {name: math}
    dataset: {bundled: {}}
  rolloutsPerTask: 4
  sampling: {temperature: "0.7", topP: "1", maxOutputTokens: 64}
  output: {uri: s3://bucket/runs/math/}
"""


def problems(text: str | bytes) -> list[tuple[int | None, str, str]]:
    with pytest.raises(InvalidManifests) as caught:
        parse_manifests(text, "m.yaml")
    return [(problem.line, problem.path, problem.message) for problem in caught.value.problems]


def job_with(old: str, new: str) -> str:
    assert old in JOB
    return JOB.replace(old, new)


def test_reads_several_documents_in_order(tmp_path: Path) -> None:
    file = tmp_path / "environment.yaml"
    file.write_text(f"---\n{ENVIRONMENT}---\n---\n{JOB}")
    environment, job = load_manifests(file)
    assert isinstance(environment, GymEnvironment)
    assert isinstance(job, RolloutJob)
    assert environment.version == "1.2.0"
    assert environment.traits == {"capabilities": ["tools", "multi-turn"]}
    policy, judge = environment.spec.models["policy"], environment.spec.models["judge"]
    assert policy.server is not None
    assert policy.server.engine == "embedded"
    assert judge.endpoint is not None
    assert judge.endpoint.base_url == "https://models.example/v1"
    assert job.spec.rollouts_per_task == 4
    assert job.spec.sampling.create_params() == {"temperature": 0.7, "top_p": 1.0, "max_output_tokens": 64}


def test_defaults_are_the_documented_ones() -> None:
    environment, job = parse_manifests(f"{ENVIRONMENT}---\n{JOB}", "m.yaml")
    assert isinstance(environment, GymEnvironment)
    assert isinstance(job, RolloutJob)
    assert environment.spec.rollout_timeout_seconds == 3600
    assert (environment.spec.agent.harness, environment.spec.agent.placement) == ("simple", "Service")
    assert environment.spec.network.policy == "Managed"
    spec = job.spec
    assert (spec.parallelism, spec.concurrency, spec.sharding.tasks_per_shard) == (1, 32, 32)
    assert (spec.on_truncated, spec.group.on_partial, spec.group.drop_zero_variance) == ("Verify", "Deliver", False)
    assert (spec.output.compression, spec.output.merge, spec.output.flush.megabytes) == ("zstd", False, 8)
    budget = spec.failure_policy
    assert (budget.backoff_limit, budget.max_rollout_attempts, budget.max_failed_rollout_fraction) == (20, 3, "0.05")
    assert spec.environments[0].weight == 1


def test_manifests_are_immutable_and_write_back_in_camel_case() -> None:
    (job,) = parse_manifests(JOB, "m.yaml")
    assert isinstance(job, RolloutJob)
    with pytest.raises(ValueError, match="frozen"):
        job.spec.suspend = True  # type: ignore[misc]
    written = job.model_dump(by_alias=True, exclude_unset=True, mode="json")
    assert written["spec"]["environments"][0]["environmentRef"] == {"name": "math"}
    assert manifest_from(written | {"apiVersion": "kubegym.dev/v1alpha1", "kind": "RolloutJob"}, "again") == job


def test_all_problems_of_a_file_are_listed_with_their_lines() -> None:
    text = ENVIRONMENT.replace("maxSteps: 6", "maxStep: 6, harness: 3") + "---\n" + JOB.replace(": 4", ": many")
    found = problems(text)
    assert sorted((line, path) for line, path, _ in found) == [
        (13, "spec.agent.harness"),
        (13, "spec.agent.maxStep"),
        (23, "spec.rolloutsPerTask"),
    ]


@pytest.mark.parametrize(
    ("old", "new", "line", "path", "says"),
    [
        ("rolloutsPerTask: 4", "rolloutPerTask: 4", 9, "spec.rolloutPerTask", "did you mean 'rolloutsPerTask'?"),
        ("rolloutsPerTask: 4", "zzzzzz: 4", 9, "spec.zzzzzz", "unknown field"),
        ('"0.7"', "0.7", 10, "spec.sampling.temperature", 'must be a string: write "0.7", in quotes'),
        ('"0.7"', '"warm"', 10, "spec.sampling.temperature", "must be a decimal number"),
        ('"0.7"', '"3"', 10, "spec.sampling.temperature", "must be from 0 to 2"),
        ('"0.7"', '"nan"', 10, "spec.sampling.temperature", "must be a decimal number"),
        (": 64", ": 6.5", 10, "spec.sampling.maxOutputTokens", "integer"),
        (": 64", ": true", 10, "spec.sampling.maxOutputTokens", "must be an integer, not true"),
        (": 4\n", ": 0\n", 9, "spec.rolloutsPerTask", "greater than or equal to 1, not 0"),
        ("{bundled: {}}", "{}", 8, "spec.environments[0].dataset", "exactly one of uri, configMapRef, bundled"),
        ("{bundled: {}}", "{bundled: {}, uri: s3://a/b}", 8, "spec.environments[0].dataset", "found uri and bundled"),
        ("{bundled: {}}", "{bundle: {}}", 8, "spec.environments[0].dataset.bundle", "did you mean 'bundled'?"),
        ("    dataset: {bundled: {}}\n", "", 6, "spec.environments[0].dataset", "is required"),
        ("{uri: s3://bucket/runs/math/}", "{}", 11, "spec.output.uri", "is required"),
        ("s3://bucket/runs/math/", "pvc://bucket/x", 11, "spec.output.uri", "does not match"),
        ("{name: math}\nspec", "{}\nspec", 3, "metadata.name", "is required"),
        ("{name: math}\nspec", "{name: Math_1}\nspec", 3, "metadata.name", "is no DNS-1123 name"),
        ("{name: math}\nspec", "\nspec", 3, "metadata", "must be a mapping, not null"),
        ("kind: RolloutJob", "kind: RolloutJobs", 2, "kind", "did you mean 'RolloutJob'?"),
        ("kind: RolloutJob", "kind: [RolloutJob]", 2, "kind", "unknown kind"),
        ("kind: RolloutJob\n", "", 1, "kind", "is required"),
        ("v1alpha1", "v1", 1, "apiVersion", "must be kubegym.dev/v1alpha1, not 'kubegym.dev/v1'"),
        ("apiVersion: kubegym.dev/v1alpha1\n", "", 1, "apiVersion", "is required"),
        ("  rolloutsPerTask: 4", "  onTruncated: skip", 9, "spec.onTruncated", "did you mean 'Skip'?"),
        ("  rolloutsPerTask: 4", "  output: {uri: s3://a/b}", 11, "spec.output", "is given twice, first in line 9"),
        ("  rolloutsPerTask: 4", "  worker: [a]", 9, "spec.worker", "must be a mapping, not a list"),
        ("  rolloutsPerTask: 4", "  1: a", 9, "spec", "keys must be strings; put '1' in quotes"),
        ("  rolloutsPerTask: 4", "  group: !!set {a}", 9, "spec.group", "the YAML tag !!set,"),
        ("  rolloutsPerTask: 4", "  group: !own {a: 1}", 9, "spec.group", "the YAML tag !own,"),
        ("  rolloutsPerTask: 4", "  group: !!map a", 9, "spec.group", "the YAML tag !!map,"),
        ("  rolloutsPerTask: 4", "  rolloutsPerTask: !!int x", 1, "", "cannot be read"),
        ("  rolloutsPerTask: 4", "  worker: {podTemplate: {a: .nan}}", 9, "spec.worker.podTemplate.a", "no number"),
        ("  rolloutsPerTask: 4", "  worker: {podTemplate: &a {b: *a}}", 9, "spec.worker.podTemplate.b", "itself"),
        ("  rolloutsPerTask: 4", "  rolloutsPerTask: [", 11, "", "is not YAML"),
    ],
)
def test_a_problem_is_named(old: str, new: str, line: int, path: str, says: str) -> None:
    found = problems(job_with(old, new))
    assert [(where, field) for where, field, _ in found] == [(line, path)]
    assert says in found[0][2]


@pytest.mark.parametrize("models", ["{}", "{server: {engine: embedded}, serverRef: {name: a}}"])
def test_a_role_has_exactly_one_model(models: str) -> None:
    text = ENVIRONMENT.replace("      server: {engine: embedded}", f"      {models}")
    ((line, path, message),) = problems(text)
    assert (line, path) == (9, "spec.models.policy")
    assert message.startswith("exactly one of server, serverRef, endpoint must be set")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("resources: {placement: Worker}", "needs agent.placement Worker"),
        ("agent: {placement: Worker, image: a}", "has no image"),
        ("models: {" + ", ".join(f"r{i}: {{serverRef: {{name: a}}}}" for i in range(9)) + "}", "at most 8"),
        ("models: {Policy!: {serverRef: {name: a}}}", "'Policy!' is no valid name"),
        ("models: {policy: {server: {engine: vllm}}}", "engine vllm needs source or weights"),
        ("models: {policy: {server: {engine: simulated, autoscaling: {minReplicas: 3}}}}", "above maxReplicas"),
    ],
)
def test_environment_rules(change: str, says: str) -> None:
    text = ENVIRONMENT[: ENVIRONMENT.index("spec:")] + f"spec:\n  {change}\n"
    ((_, _, message),) = problems(text)
    assert says in message


def test_rows_have_one_home() -> None:
    twice = JOB.replace(
        "  rolloutsPerTask", "  - {name: math, environmentRef: {name: b}, dataset: {bundled: {}}}\n  rolloutsPerTask"
    )
    assert "'math' occurs more than once" in problems(twice)[0][2]
    many = "".join(f"  - {{name: e{i}, environmentRef: {{name: a}}, dataset: {{bundled: {{}}}}}}\n" for i in range(33))
    assert "at most 32" in problems(JOB.replace("  rolloutsPerTask", many + "  rolloutsPerTask"))[0][2]


def test_a_name_may_stand_once_in_a_file() -> None:
    assert problems(f"{JOB}---\n{JOB}") == [(15, "metadata.name", "RolloutJob 'math' stands in line 1 already")]


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("", None, "holds no manifest"),
        ("# nothing\n---\n", None, "holds no manifest"),
        ("just text", 1, "a manifest is a mapping"),
        ("- a\n", 1, "a manifest is a mapping"),
        (b"a: 1\nb: \xff\n", 2, "is not UTF-8"),
        ("a: \x00", None, "is not YAML"),
        ("a: " + "[" * 500 + "]" * 500, 1, "nested deeper"),
        ("a:\n  " + "[" * 100_000, 2, "nested deeper"),
        ("x" * (4 * 1024 * 1024 + 1), None, "is larger than"),
    ],
)
def test_what_is_no_manifest_at_all(text: str | bytes, line: int | None, says: str) -> None:
    found = problems(text)
    assert len(found) == 1
    assert found[0][0] == line
    assert says in found[0][2]


def test_aliases_that_multiply_are_refused() -> None:
    levels = ["l0: &l0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"l{i}: &l{i} [" + ", ".join([f"*l{i - 1}"] * 10) + "]" for i in range(1, 10)]
    ((_, _, message),) = problems("\n".join(levels))
    assert "aliases written out" in message


def test_merge_keys_anchors_dates_and_exponents() -> None:
    (environment,) = parse_manifests(
        """
apiVersion: kubegym.dev/v1alpha1
kind: GymEnvironment
metadata: {name: a, creationTimestamp: 2026-01-01T00:00:00Z, uid: u}
spec:
  agent: {placement: Worker, config: &base {rate: 1e-5, day: 2026-01-01, on_time: true}}
  resources: {placement: Worker, config: {<<: *base, rate: 2e+3}}
status: {observedGeneration: 3}
""",
        "m.yaml",
    )
    assert isinstance(environment, GymEnvironment)
    assert environment.spec.agent.config == {"rate": 1e-5, "day": "2026-01-01", "on_time": True}
    assert environment.spec.resources.config == {"rate": 2000.0, "day": "2026-01-01", "on_time": True}


def test_a_problem_in_merged_fields_names_the_own_one() -> None:
    text = job_with("  rolloutsPerTask: 4", "  worker:\n    <<: {image: a}\n    image: 3")
    assert [(line, path) for line, path, _ in problems(text)] == [(11, "spec.worker.image")]


def test_full_model_server() -> None:
    (server,) = parse_manifests(
        """
apiVersion: kubegym.dev/v1alpha1
kind: ModelServer
metadata: {name: qwen}
spec:
  source: {uri: hf://org/model, revision: abc, credentialsSecretRef: {name: hf}}
  weights: {uri: s3://w/7, version: 7, kind: Adapter, onUpdate: Abort}
  suspend: false
  idlePolicy: {scaleToZeroAfterSeconds: 1800}
  servedModelName: org/model
  replicas: 2
  parallelism: {tensor: 2}
  accelerator: {resourceName: nvidia.com/gpu}
  engineArgs: {max-model-len: "32768"}
  cache: {ephemeral: {sizeLimit: 100Gi}}
  autoscaling: {mode: Demand, minReplicas: 0, maxReplicas: 4}
  queue: {name: gpu-lq}
  consumers: {namespaceSelector: {matchLabels: {team: a}}}
  serviceAccountName: sa
  podTemplate: {spec: {nodeSelector: {a: b}}}
""",
        "m.yaml",
    )
    assert isinstance(server, ModelServer)
    assert server.spec.weights is not None
    assert server.spec.weights.version == 7
    assert server.spec.parallelism.tensor == 2
    assert server.spec.pod_template == {"spec": {"nodeSelector": {"a": "b"}}}


def test_full_rollout_job() -> None:
    (job,) = parse_manifests(
        """
apiVersion: kubegym.dev/v1alpha1
kind: RolloutJob
metadata: {name: mix}
spec:
  environments:
  - name: math
    environmentRef: {name: math}
    agentRefs: [math_simple_agent]
    weight: 2
    rolloutsPerTask: 4
    sampling: {temperature: "0"}
    models: {policy: {serverRef: {name: qwen, namespace: models}}}
    dataset: {uri: s3://d/x.jsonl.zst, sha256: """
        + "a" * 64
        + """, format: jsonl.zst, offset: 5, limit: 10, shuffle: {seed: 1}, endpoint: http://minio:9000, region: eu}
  group: {minScored: 2, onPartial: Drop, dropZeroVariance: true}
  sampling: {temperature: "1.0", seed: 7, extraBody: {top_k: 5}, chatTemplateKwargs: {thinking: false}}
  sharding: {tasksPerShard: 8}
  parallelism: 16
  concurrency: 64
  maxPolicyVersionLag: 2
  onTruncated: Skip
  output: {uri: gs://b/x/, compression: none, merge: true, flush: {seconds: 5}, caConfigMapRef: {name: ca}}
  suspend: true
  activeDeadlineSeconds: 100
  preRunningDeadlineSeconds: 50
  ttlSecondsAfterFinished: 0
  managedBy: kueue.x-k8s.io/multikueue
  failurePolicy: {backoffLimit: 1, maxRolloutAttempts: 5, maxFailedRolloutFraction: "0"}
  queue: {name: cpu-lq, priorityClass: low}
  worker: {image: x:1, compute: {requests: {cpu: 2, memory: 4Gi}}, allowedEgress: [{to: []}]}
""",
        "m.yaml",
    )
    assert isinstance(job, RolloutJob)
    entry = job.spec.environments[0]
    assert entry.sampling is not None
    merged = entry.sampling.over(job.spec.sampling)
    assert (merged.temperature, merged.seed, merged.extra_body) == ("0", 7, {"top_k": 5})
    assert job.spec.worker.compute is not None
    assert job.spec.worker.compute.requests == {"cpu": "2", "memory": "4Gi"}


def test_data_without_text_has_no_line() -> None:
    with pytest.raises(InvalidManifests) as caught:
        manifest_from({"apiVersion": "kubegym.dev/v1alpha1", "kind": "RolloutJob", "spec": {}}, "flags")
    assert {str(problem) for problem in caught.value.problems} == {
        "flags: metadata: is required",
        "flags: spec.environments: is required",
        "flags: spec.output: is required",
    }
    with pytest.raises(InvalidManifests, match=r"must be kubegym\.dev/v1alpha1"):
        manifest_from({"apiVersion": "v1", "kind": "GymEnvironment", "metadata": {"name": "a"}}, "flags")


def test_an_unreadable_file_is_a_problem_too(tmp_path: Path) -> None:
    with pytest.raises(InvalidSpec, match="cannot be read: No such file") as caught:
        load_manifests(tmp_path / "none.yaml")
    assert caught.value.reason == "InvalidSpec"
    with pytest.raises(InvalidSpec, match="cannot be read: Is a directory"):
        load_manifests(tmp_path)


def test_the_message_lists_every_problem() -> None:
    with pytest.raises(InvalidSpec) as caught:
        parse_manifests(JOB.replace(": 4", ": x").replace("onTruncated", "y").replace("kind: R", "kind: R"), "m.yaml")
    assert str(caught.value).startswith("m.yaml:9: spec.rolloutsPerTask: must be an integer, not 'x'")
    with pytest.raises(InvalidSpec) as caught:
        parse_manifests(JOB.replace(": 4", ": x").replace('"0.7"', "0.7"), "m.yaml")
    first, *rest = str(caught.value).splitlines()
    assert first == "2 problems in manifests"
    assert [line.split(": ")[0] for line in rest] == ["  m.yaml:9", "  m.yaml:10"]
