"""The operator as a release of the chart runs it: with its environment variables, and as its service account.

Nothing runs in the pods of a control plane with fake nodes, so that the operator is a process of this machine.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from testbed.helm import NAMESPACE
from testbed.k8s.cluster import Cluster
from testbed.operator_process import OperatorProcess
from testbed.rights import await_rights

_PREFIX = "KUBEGYM_OPERATOR_"
_DOWNWARD = {"metadata.name": "operator-0", "metadata.namespace": NAMESPACE}


def released(
    cluster: Cluster, deployment: str, folder: Path, environment: Mapping[str, str] | None = None
) -> OperatorProcess:
    """What a Deployment of the release's namespace describes; to be started, and to be ended.

    Args:
        cluster: where the release lies.
        deployment: its name.
        folder: for the log.
        environment: further environment variables.
    """
    found = cluster.api.get("apps/v1", "Deployment", deployment, NAMESPACE)
    assert found is not None, f"there is no Deployment {deployment}"
    pod = found["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    told = {
        one["name"]: one["value"] if "value" in one else _DOWNWARD[one["valueFrom"]["fieldRef"]["fieldPath"]]
        for one in container["env"]
    }
    settings = {name.removeprefix(_PREFIX).lower(): told.pop(name) for name in list(told) if name.startswith(_PREFIX)}
    settings["listen"] = "127.0.0.1:0"
    watched = json.loads(settings.get("watch_namespaces", "[]"))
    await_rights(cluster, pod["serviceAccountName"], settings["lease_name"], watched)
    account = cluster.kubeconfig_of(NAMESPACE, pod["serviceAccountName"])
    return OperatorProcess(account, folder, environment={**told, **(environment or {})}, **settings)
