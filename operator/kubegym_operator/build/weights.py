"""Weights that are exchanged while a server serves: what its pods are told, and who may tell them.

A ConfigMap says what is announced, for pods that start, and holds the digest of the token that the model servers'
control ports ask for. The token itself is the operator's alone, made from a key that lives as long as its process: so
nothing that can be read controls an engine, and no Secret has to be read (rule 7). The pods' volume of the ConfigMap is
optional: a server without announced weights has none.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from kubegym.core.spec import ModelServer
from kubegym_operator.build import names
from kubegym_operator.build.child import Rendering
from kubegym_operator.build.context import BuildContext
from kubegym_operator.build.labels import Component, content_digest
from kubegym_operator.build.pod import SECRETS_FOLDER, Mount, ca_bundle, scratch_mount
from kubegym_operator.build.sources import FETCHED, WEIGHTS, WeightsPlan, exchangeable, exchanged, first_weights

CONTROL_PORT: Final = 8004

ANNOUNCED: Final = "announced.json"
_CONTROL: Final = "control"
_FOLDER: Final = "/etc/kubegym/weights"
_FETCHED_INTO: Final = "/announced"
_CLAIM: Final = "/claim"


def control_token(server: ModelServer, context: BuildContext) -> str:
    """What the control ports of a server's replicas ask for."""
    uid = server.metadata.uid or ""
    return hmac.new(context.control_key.encode(), uid.encode(), hashlib.sha256).hexdigest()


def announced_config(rendering: Rendering, server: ModelServer, good: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """The ConfigMap with what is announced; none where nothing is exchanged.

    Args:
        rendering: of the server.
        server: it.
        good: weights that were served before the announced ones, to begin with where these do not prove.
    """
    weights = server.spec.weights
    if weights is None or not exchanged(server):
        return []
    wanted = weights.model_dump(mode="json", by_alias=True)
    text = json.dumps({"wanted": wanted, **({"good": dict(good)} if good else {})}, sort_keys=True)
    digest = hashlib.sha256(control_token(server, rendering.context).encode()).hexdigest()
    data = {ANNOUNCED: text + "\n", _CONTROL: f"sha256:{digest}\n"}
    own = replace(rendering, spec_digest=content_digest(data))  # another version is no older rendering
    return [own.child("ConfigMap", names.weights_config(server.name), Component.MODEL, data=data)]


def update_arguments(server: ModelServer, plan: WeightsPlan) -> list[str]:
    """What a model server is told so that its engine's weights can be exchanged, and which it starts with."""
    start = first_weights(server)
    version = [] if start is None or start.version is None else [f"--policy-version={start.version}"]
    if not exchangeable(server):
        return version
    args = [f"--control-listen=:{CONTROL_PORT}", f"--control-token-file={_FOLDER}/{_CONTROL}"]
    args += [f"--announced={_FOLDER}/{ANNOUNCED}", f"--weights-folder={_FETCHED_INTO}", f"--first-weights={WEIGHTS}"]
    if (claim := _claim(plan)) is not None:
        args.append(f"--weights-claim={claim}={_CLAIM}")
    if _secret(server) is not None:
        args.append(f"--weights-credentials={SECRETS_FOLDER}/source")
    return [*args, *version]


def update_mounts(server: ModelServer, plan: WeightsPlan, context: BuildContext) -> list[Mount]:
    """What the model server sees of it: orders, weights, keys."""
    if not exchangeable(server):
        return []
    config = {"name": names.weights_config(server.name), "optional": True}
    mounts = [Mount({"name": "announced", "configMap": config}, _FOLDER), _fetched(read_only=False)]
    mounts += [] if plan.mount is None else [plan.mount]
    mounts += _claimed(plan)
    if (secret := _secret(server)) is not None:
        keys = {"secretName": secret, "optional": True}  # weights that lie in the pod need none
        mounts.append(Mount({"name": "announced-keys", "secret": keys}, f"{SECRETS_FOLDER}/source"))
    return [*mounts, *ca_bundle(context)[0]]


def update_variables(server: ModelServer, context: BuildContext) -> dict[str, str]:
    """What it needs to reach stores."""
    return {**context.proxy_env, **ca_bundle(context)[1]} if exchangeable(server) else {}


def engine_mounts(server: ModelServer, plan: WeightsPlan) -> list[Mount]:
    """What the engine sees of it, under the same paths."""
    return [_fetched(read_only=True), *_claimed(plan)] if exchangeable(server) else []


def fetches_announced(server: ModelServer) -> bool:
    """Whether its pods have to reach a store for the announced weights."""
    weights = server.spec.weights
    return weights is not None and exchanged(server) and weights.uri.partition("://")[0] in FETCHED


def _fetched(*, read_only: bool) -> Mount:
    scratch = scratch_mount("fetched", _FETCHED_INTO)
    return Mount(scratch.volume, scratch.path, read_only)


def _claim(plan: WeightsPlan) -> str | None:
    """The claim that the first weights lie on, where they are not fetched: announced ones may lie beside them."""
    volume = plan.mount.volume if plan.mount is not None and plan.fetch_into is None else {}
    claim = volume.get("persistentVolumeClaim")
    return None if claim is None else str(claim["claimName"])


def _claimed(plan: WeightsPlan) -> list[Mount]:
    return [] if plan.mount is None or _claim(plan) is None else [Mount(plan.mount.volume, _CLAIM)]


def _secret(server: ModelServer) -> str | None:
    source = server.spec.source
    ref = source.credentials_secret_ref if source is not None else None
    return None if ref is None else ref.name
