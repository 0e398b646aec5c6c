"""Weights: where they lie, how they come into a pod, and what a run records of them.

``pvc://`` and ``oci://`` are mounted as they are. ``hf://``, ``s3://`` and ``gs://`` are fetched: with a claim as cache
once, by a Job, into a folder named after what it holds; otherwise by an init container of every pod. The engine sees
them read-only at ``/weights`` in either case.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from kubegym.core.spec import Compute, ModelServer, ModelSource
from kubegym_operator.build import labels
from kubegym_operator.build.context import BuildContext
from kubegym_operator.build.errors import UnsupportedSource
from kubegym_operator.build.pod import SECRETS_FOLDER, Container, Mount, ca_bundle, pod_identity, secret_mount

WEIGHTS: Final = "/weights"
CACHE: Final = "/cache"
FETCHED: Final = ("hf", "s3", "gs")

_FETCH_COMPUTE = Compute(requests={"cpu": "250m", "memory": "512Mi"})
_VOLUME = "weights"
_SOURCE = "spec.source"
_WEIGHTS = "spec.weights"
_DIGEST_DIGITS = 16
_OCI_DIGEST = re.compile(r"^sha256:[0-9a-f]{64}$")


@dataclass(frozen=True, slots=True)
class WeightsPlan:
    """How a server's weights come to it.

    Attributes:
        mount: of the engine; None: it has a model of its own, or finds one itself.
        fetch_into: the folder that is filled, in the fetcher's eyes; None: nothing is fetched.
        fetch_mount: of the fetcher.
        by_job: filled once by a Job; otherwise by every pod for itself.
        digest: of what is fetched.
    """

    mount: Mount | None = None
    fetch_into: str | None = None
    fetch_mount: Mount | None = None
    by_job: bool = False
    digest: str = ""


class FirstWeights(NamedTuple):
    """What an engine starts with: the field that says it, where it lies, and its version where that is announced."""

    field: str
    source: ModelSource
    version: int | None = None


def exchangeable(server: ModelServer) -> bool:
    """Whether this engine can take other weights than its first ones while it serves: on one node, by our control."""
    spec = server.spec
    return spec.engine in ("vllm", "embedded") and spec.source is not None and spec.parallelism.nodes == 1


def exchanged(server: ModelServer) -> bool:
    """Whether the announced weights are taken while it serves, and are no part of its pods."""
    weights = server.spec.weights
    return weights is not None and weights.on_update != "Recreate" and exchangeable(server)


def first_weights(server: ModelServer) -> FirstWeights | None:
    """What an engine starts with; None: it has a model of its own, or none.

    Raises:
        UnsupportedSource: an adapter for an engine that cannot take one while it serves.
    """
    source, weights = server.spec.source, server.spec.weights
    if weights is None or server.spec.engine == "simulated" or (source is not None and exchanged(server)):
        return None if source is None else FirstWeights(_SOURCE, source)
    if weights.kind == "Adapter":
        raise UnsupportedSource(f"{_WEIGHTS}.kind", "Adapter needs an engine that takes weights while it serves")
    secret = source.credentials_secret_ref if source is not None else None
    return FirstWeights(_WEIGHTS, ModelSource(uri=weights.uri, credentials_secret_ref=secret), weights.version)


def plan_weights(server: ModelServer) -> WeightsPlan:
    """How a server's first weights come to it.

    ``spec.weights`` beside a source is exchanged while it serves and is no part of the pod. Alone, or where the engine
    cannot exchange it, it is what there is to begin with: then a new version is another pod.

    Raises:
        UnsupportedSource: a source that is not pinned, or not for a cluster.
    """
    start, cache = first_weights(server), server.spec.cache
    if start is None:
        if server.spec.engine == "vllm":
            raise UnsupportedSource(_SOURCE, "is required: the weights to serve, here or in spec.weights")
        return WeightsPlan()
    field, source, version = start
    scheme, _, path = source.uri.partition("://")
    if scheme == "file":
        raise UnsupportedSource(f"{field}.uri", "file:// is for runs on one machine: use hf, s3, gs, pvc or oci")
    if scheme == "pvc":
        return WeightsPlan(_claim_mount(field, path))
    if scheme == "oci":
        return WeightsPlan(_image_mount(_pinned_image(field, source, path)))
    if cache is not None and cache.image is not None:
        return WeightsPlan(_image_mount(cache.image))
    if scheme == "hf" and source.revision is None:
        raise UnsupportedSource(
            f"{_SOURCE}.revision", "is required for hf://: a commit, so that all replicas serve the same weights"
        )
    content = (source.uri, source.revision) if version is None else (source.uri, version)
    digest = labels.content_digest(*content)[:_DIGEST_DIGITS]
    if cache is not None and cache.persistent_volume_claim is not None:
        volume = _claim(cache.persistent_volume_claim.claim_name)
        return WeightsPlan(
            Mount(volume, WEIGHTS, sub_path=digest),
            fetch_into=f"{CACHE}/{digest}",
            fetch_mount=Mount(volume, CACHE, read_only=False),
            by_job=True,
            digest=digest,
        )
    limit = cache.ephemeral.size_limit if cache is not None and cache.ephemeral is not None else None
    scratch = {"name": _VOLUME, "emptyDir": {} if limit is None else {"sizeLimit": limit}}
    own = Mount(scratch, WEIGHTS, read_only=False)
    return WeightsPlan(Mount(scratch, WEIGHTS), fetch_into=WEIGHTS, fetch_mount=own, digest=digest)


def fetcher(server: ModelServer, plan: WeightsPlan, context: BuildContext, name: str) -> Container:
    """The container that fetches and verifies: ``kubegym fetch URI --into FOLDER``."""
    start = first_weights(server)
    assert start is not None, "only what is somewhere is fetched"
    source = start.source
    assert plan.fetch_into is not None, "only what is fetched has a fetcher"
    assert plan.fetch_mount is not None, "only what is fetched has a fetcher"
    args = ["fetch", source.uri, "--into", plan.fetch_into]
    if source.revision is not None:
        args += ["--revision", source.revision]
    mounts = [plan.fetch_mount]
    if source.credentials_secret_ref is not None:
        folder = f"{SECRETS_FOLDER}/source"
        mounts.append(secret_mount("source", source.credentials_secret_ref.name, folder))
        args += ["--credentials", folder]
    bundle, variables = ca_bundle(context)
    env: Mapping[str, str | Mapping[str, Any]] = {**pod_identity(), **context.proxy_env, **variables}
    mounts += bundle
    return Container(name, context.images.model, args=args, env=env, mounts=mounts, compute=_FETCH_COMPUTE)


def _claim(name: str) -> dict[str, Any]:
    return {"name": _VOLUME, "persistentVolumeClaim": {"claimName": name}}


def _claim_mount(field: str, path: str) -> Mount:
    """``pvc://claim/folder`` as it is, read-only."""
    claim, _, folder = path.partition("/")
    folder = folder.strip("/")
    if not claim or ".." in folder.split("/"):
        raise UnsupportedSource(f"{field}.uri", f"pvc://{path}: give pvc://claim or pvc://claim/folder")
    return Mount(_claim(claim), WEIGHTS, sub_path=folder or None)


def _image_mount(reference: str) -> Mount:
    """An image's files, without a fetch: an image volume (Kubernetes 1.35 and later)."""
    return Mount({"name": _VOLUME, "image": {"reference": reference}}, WEIGHTS)


def _pinned_image(field: str, source: ModelSource, path: str) -> str:
    """An image by digest."""
    if "@sha256:" in path:
        return path
    if source.revision is None or not _OCI_DIGEST.match(source.revision):
        if field == _WEIGHTS:
            raise UnsupportedSource(f"{field}.uri", "oci:// has to end in the image's digest, @sha256:...")
        remedy = "is required for oci://: the image's digest, sha256:..., unless the uri ends in it"
        raise UnsupportedSource(f"{field}.revision", remedy)
    head, slash, last = path.rpartition("/")
    return f"{head}{slash}{last.partition(':')[0]}@{source.revision}"
