"""Who may do what, as the API server itself decides it."""

from __future__ import annotations

from collections.abc import Sequence

from testbed.helm import NAMESPACE
from testbed.k8s.cluster import Cluster
from testbed.k8s.process import until


def may(cluster: Cluster, user: str, verb: str, resource: str, namespace: str | None, name: str = "") -> bool:
    """Whether a user may: ``resource`` is ``group/resource`` or ``group/resource/subresource``; "core" has no name."""
    group, plural, *subresource = resource.split("/")
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {
            "user": user,
            "groups": ["system:serviceaccounts", f"system:serviceaccounts:{NAMESPACE}", "system:authenticated"],
            "resourceAttributes": {
                "verb": verb,
                "group": "" if group == "core" else group,
                "resource": plural,
                "subresource": "".join(subresource),
                "namespace": namespace or "",
                "name": name,
            },
        },
    }
    answer = cluster.api.request("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
    return bool(answer["status"]["allowed"])


def await_rights(cluster: Cluster, account: str, lease: str, namespaces: Sequence[str] = ()) -> str:
    """Wait until what a release grants its operator holds; the operator's user name.

    The API server stores a role, or who has it, and learns of it a moment later.

    Args:
        cluster: where the rights were applied.
        account: the operator's service account.
        lease: its own.
        namespaces: where it works; none means everywhere.
    """
    user = f"system:serviceaccount:{NAMESPACE}:{account}"

    def granted() -> bool:
        works = (may(cluster, user, "list", "kubegym.dev/rolloutjobs", place) for place in namespaces or (None,))
        return all(works) and may(cluster, user, "get", "coordination.k8s.io/leases", NAMESPACE, lease)

    until(granted, f"{account} has its rights")
    return user
