"""Engines: the containers that compute, and the model server that stands in front of them (rule 11).

vLLM and custom engines listen on loopback; the model server beside them, a native sidecar, owns the port that the pod
network sees. The embedded and simulated engines are the model server itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from kubegym.core.spec import Compute, ModelServer
from kubegym.core.spec.model import Accelerator
from kubegym_operator.build.context import BuildContext
from kubegym_operator.build.endpoints import MODEL_PORT, served_name
from kubegym_operator.build.errors import BuildError
from kubegym_operator.build.pod import TMP, Container, Mount, scratch_mount, server_probes
from kubegym_operator.build.sources import WEIGHTS, WeightsPlan, exchangeable, exchanged
from kubegym_operator.build.weights import engine_mounts, update_arguments, update_mounts, update_variables

ENGINE: Final = "engine"
"""The engine's container, whatever the engine; what a podTemplate calls it."""

MODEL_SERVER: Final = "model-server"
"""The model server's container."""

ENGINE_PORT: Final = 8001
"""Where an engine listens, on loopback only."""

ENDPOINT_SECONDS: Final = 15
"""How long an engine still answers after it was told to go: until nobody is sent to it any more."""

SHUTDOWN_SECONDS: Final = 120
"""The longest turn that an engine finishes after that, unless ``engineArgs`` has ``shutdown-timeout``."""

LOAD_SECONDS: Final = 3600
"""The longest that loading a model may take."""

_UPDATES: Final = frozenset(
    {"announced", "control-listen", "control-token-file", "first-weights", "policy-version"}
    | {"weights-claim", "weights-credentials", "weights-folder"}
)
_OWNED_ARGS: Final[Mapping[str, frozenset[str]]] = {
    "vllm": frozenset(
        {"model", "host", "port", "uds", "served-model-name", "tensor-parallel-size", "pipeline-parallel-size"}
        | {"nnodes", "node-rank", "master-addr", "headless", "api-key", "root-path", "ssl-keyfile", "ssl-certfile"}
    ),
    "embedded": frozenset({"engine", "listen", "model", "upstream", "weights", "api-key-file"} | _UPDATES),
    "simulated": frozenset({"engine", "listen", "model", "upstream", "weights", "api-key-file"}),
    "custom": frozenset(),
}
"""Engine arguments that the operator sets, by engine."""

_SCALE_OUT = "enable-scale-out"
"""The routes by which vLLM tells which weights made which token."""
_USER = "nonroot"
"""Images of others have no account for our uid, and torch asks for its name."""

_SIDECAR_COMPUTE = Compute(requests={"cpu": "100m", "memory": "128Mi"})
_EMBEDDED_COMPUTE = Compute(requests={"cpu": "250m", "memory": "256Mi"})


def has_sidecar(server: ModelServer) -> bool:
    """Whether the engine is a program of others, which nobody but our model server may reach."""
    return server.spec.engine in ("vllm", "custom")


def engine_container(
    server: ModelServer, plan: WeightsPlan, context: BuildContext, *, follower: bool = False
) -> Container:
    """The container that computes; ``follower`` on every node of a multi-node replica but the first.

    Raises:
        BuildError: arguments or sizes that cannot be.
    """
    if server.spec.engine == "vllm":
        return _vllm(server, plan, context, follower=follower)
    if server.spec.engine == "custom":
        return _custom(server, plan)
    return _own(server, plan, context)


def sidecar(server: ModelServer, plan: WeightsPlan, context: BuildContext) -> Container:
    """The model server beside an engine. It starts before the engine and ends after it."""
    upstream = f"http://127.0.0.1:{ENGINE_PORT}/v1"
    args = ["serve", "model", "--upstream", upstream, "--listen", f":{MODEL_PORT}", "--model", served_name(server)]
    args += update_arguments(server, plan)
    probes = server_probes()
    del probes["lifecycle"]  # the engine, which ends first, waits for both
    return Container(
        MODEL_SERVER,
        context.images.model,
        args=args,
        env=update_variables(server, context),
        mounts=update_mounts(server, plan, context),
        port=MODEL_PORT,
        compute=_SIDECAR_COMPUTE,
        extra={"restartPolicy": "Always", **probes},
    )


def grace_seconds(server: ModelServer) -> int:
    """From the announcement of an engine's end to its kill: endpoints, the longest turn, and some."""
    return ENDPOINT_SECONDS + _shutdown_seconds(server) + 15


def accelerator(server: ModelServer) -> Accelerator | None:
    """What the engine computes on: where the spec is silent, GPUs for vLLM, and the node's CPUs for the others."""
    if server.spec.accelerator is None and server.spec.engine == "vllm":
        return Accelerator(resource_name="nvidia.com/gpu")
    return server.spec.accelerator


def accelerator_resources(server: ModelServer) -> dict[str, Any]:
    """The engine container's share of a node: a device plugin's resource, or resource claims."""
    wanted, shape = accelerator(server), server.spec.parallelism
    if wanted is None:
        return {}
    if wanted.resource_claims is not None:
        return {"resources": {"claims": [{"name": claim.name} for claim in wanted.resource_claims]}}
    # A request equals its limit for such resources, and is implied by it.
    return {"resources": {"limits": {wanted.resource_name: str(shape.tensor * shape.pipeline // shape.nodes)}}}


def scheduling(server: ModelServer) -> dict[str, Any]:
    """The pod's half of it: claims, and the toleration that keeps others off accelerator nodes."""
    wanted = accelerator(server)
    if wanted is None:
        return {}
    if wanted.resource_claims is not None:
        claims = (claim.model_dump(by_alias=True, exclude_none=True) for claim in wanted.resource_claims)
        return {"resourceClaims": list(claims)}
    if "/" not in (wanted.resource_name or ""):  # ``cpu``: a node's own resource, which has no taint
        return {}
    return {"tolerations": [{"key": wanted.resource_name, "operator": "Exists", "effect": "NoSchedule"}]}


def _vllm(server: ModelServer, plan: WeightsPlan, context: BuildContext, *, follower: bool) -> Container:
    shape = server.spec.parallelism
    args = [WEIGHTS, f"--served-model-name={served_name(server)}", "--host=127.0.0.1", f"--port={ENGINE_PORT}"]
    args += [f"--tensor-parallel-size={shape.tensor}", f"--pipeline-parallel-size={shape.pipeline}"]
    given = _engine_args(server)
    defaults = {
        # Sampling is the job's; the model's own file would change it silently.
        "generation-config": "vllm",
        "shutdown-timeout": str(SHUTDOWN_SECONDS),
    }
    args += _flags({**defaults, **given})
    weights = server.spec.weights
    if weights is not None and weights.on_update == "Continue" and exchanged(server) and _SCALE_OUT not in given:
        args.append(f"--{_SCALE_OUT}")
    env: dict[str, str | Mapping[str, Any]] = {
        "HF_HUB_OFFLINE": "1",  # the weights are there, and nothing else is to be asked for
        "USER": _USER,
        "VLLM_CACHE_ROOT": f"{TMP}/vllm",
        "VLLM_NO_USAGE_STATS": "1",
    }
    if shape.nodes > 1:
        args += [f"--nnodes={shape.nodes}", "--node-rank=$(LWS_WORKER_INDEX)", "--master-addr=$(LWS_LEADER_ADDRESS)"]
        args += ["--headless"] if follower else []
        env["VLLM_HOST_IP"] = {"fieldRef": {"fieldPath": "status.podIP"}}
    if exchangeable(server):
        env["VLLM_SERVER_DEV_MODE"] = "1"  # its control routes, which loopback alone reaches
        if "enable-lora" in given:
            env["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "1"
    mounts = [*_mounts(plan), *engine_mounts(server, plan)]
    extra: dict[str, Any] = {**accelerator_resources(server), **_drain()}
    if not follower:
        extra |= _health_probes("/health")
    return Container(
        ENGINE, context.images.vllm, command=["vllm", "serve"], args=args, env=env, mounts=mounts, extra=extra
    )


def _custom(server: ModelServer, plan: WeightsPlan) -> Container:
    """An engine that the podTemplate describes; it is told by variables where to listen and what to load."""
    if server.spec.engine_args:
        raise BuildError("spec.engineArgs", "engine custom has none: give them as args in spec.podTemplate")
    shape = server.spec.parallelism
    env = {
        "KUBEGYM_ENGINE_PORT": str(ENGINE_PORT),
        "KUBEGYM_MODEL_PATH": WEIGHTS,
        "KUBEGYM_NODES": str(shape.nodes),
        "KUBEGYM_PIPELINE_PARALLEL": str(shape.pipeline),
        "KUBEGYM_SERVED_MODEL_NAME": served_name(server),
        "KUBEGYM_TENSOR_PARALLEL": str(shape.tensor),
        "USER": _USER,
    }
    return Container(ENGINE, None, env=env, mounts=_mounts(plan), extra={**accelerator_resources(server), **_drain()})


def _own(server: ModelServer, plan: WeightsPlan, context: BuildContext) -> Container:
    """The embedded or the simulated engine, in the model server's own process."""
    engine = server.spec.engine
    args = ["serve", "model", "--engine", engine, "--listen", f":{MODEL_PORT}", "--model", served_name(server)]
    mounts: list[Mount] = []
    env: dict[str, str] = {}
    if engine == "embedded":
        if plan.mount is not None:
            args += ["--weights", WEIGHTS]
        args += update_arguments(server, plan)
        env = update_variables(server, context)
        mounts = update_mounts(server, plan, context)
        if plan.mount is not None and plan.mount not in mounts:
            mounts.append(plan.mount)
    args += _flags(_engine_args(server))
    return Container(
        ENGINE,
        context.images.model,
        args=args,
        env=env,
        mounts=mounts,
        port=MODEL_PORT,
        compute=_EMBEDDED_COMPUTE,
        extra={**accelerator_resources(server), **server_probes()},
    )


def _mounts(plan: WeightsPlan) -> list[Mount]:
    # Processes of one engine exchange tensors through shared memory, of which containers have 64 MiB.
    shared = scratch_mount("shared-memory", "/dev/shm", "16Gi", memory=True)
    return [shared] if plan.mount is None else [shared, plan.mount]


def _engine_args(server: ModelServer) -> dict[str, str]:
    """``engineArgs`` in order of their names, as the command line spells them.

    Raises:
        BuildError: one that the operator sets.
    """
    args = {key.replace("_", "-").lstrip("-"): value for key, value in sorted(server.spec.engine_args.items())}
    for key in args:
        if key in _OWNED_ARGS[server.spec.engine]:
            raise BuildError(f"spec.engineArgs.{key}", "is the operator's: remove it")
    return args


def _flags(args: Mapping[str, str]) -> list[str]:
    """``--key=value``; switches as ``--key`` and ``--no-key``."""
    switches = {"": "--{}", "true": "--{}", "false": "--no-{}"}
    return [switches[value].format(key) if value in switches else f"--{key}={value}" for key, value in args.items()]


def _shutdown_seconds(server: ModelServer) -> int:
    given = server.spec.engine_args.get("shutdown-timeout", str(SHUTDOWN_SECONDS))
    if not given.isdecimal():
        raise BuildError("spec.engineArgs.shutdown-timeout", f"must be a number of seconds, not {given!r}")
    return int(given)


def _drain() -> dict[str, Any]:
    return {"lifecycle": {"preStop": {"sleep": {"seconds": ENDPOINT_SECONDS}}}}


def _health_probes(path: str) -> dict[str, Any]:
    """Probes from inside: kubelet does not reach loopback. Readiness is the model server's, which knows more."""
    script = f"import urllib.request; urllib.request.urlopen('http://127.0.0.1:{ENGINE_PORT}{path}', timeout=8)"

    def probe(failures: int) -> dict[str, Any]:
        command = ["python3", "-I", "-S", "-c", script]  # without site-packages, which take long to look through
        return {
            "exec": {"command": command},
            "periodSeconds": 10,
            "failureThreshold": failures,
            "timeoutSeconds": 10,
        }

    return {"startupProbe": probe(LOAD_SECONDS // 10), "livenessProbe": probe(6)}
