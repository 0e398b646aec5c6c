"""Where the API server is and who we are: in a cluster from the pod's service account, elsewhere from a kubeconfig."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kubegym_operator.kube.errors import Unavailable

if TYPE_CHECKING:
    from kubernetes.aio.client import Configuration


async def load(kubeconfig: Path | None = None, context: str | None = None) -> Configuration:
    """How to reach the API server.

    Args:
        kubeconfig: a file; None takes the pod's service account where there is one, else ``KUBECONFIG`` or
            ``~/.kube/config``.
        context: of the file; None means its current one.

    Raises:
        Unavailable: nothing says where the server is.
    """
    from kubernetes.aio import config
    from kubernetes.aio.client import Configuration

    configuration = Configuration()
    configuration.retries = False  # the queue retries, with everything else that failed
    configuration.connection_pool_maxsize = 32
    # As kopf's watches: no proxy but the kubeconfig's. Looking for a netrc file costs each request a thread.
    configuration.client_session_kwargs = {"trust_env": False}
    try:
        if kubeconfig is None and "KUBERNETES_SERVICE_HOST" in os.environ:
            config.load_incluster_config(configuration)
        else:
            await config.load_kube_config(
                str(kubeconfig) if kubeconfig is not None else None,
                context,
                client_configuration=configuration,
                persist_config=False,
            )
    except (config.ConfigException, OSError) as error:
        raise Unavailable(f"no way to the API server: {error}", retryable=False) from None
    return configuration


@dataclass(frozen=True, slots=True)
class Credentials:
    """What another client needs to reach the same server as the same user.

    Attributes:
        server: URL.
        ca_path: file of the authorities that are trusted; None trusts the system's.
        certificate_path, key_path: of a client certificate.
        scheme, token: of the Authorization header; None where certificates do.
        verify: whether the server's certificate is checked.
    """

    server: str
    ca_path: str | None
    certificate_path: str | None
    key_path: str | None
    scheme: str | None
    token: str | None
    verify: bool


async def credentials(kubeconfig: Path | None = None) -> Credentials:
    """The credentials as they are now; a service account's token is read again. Raises Unavailable."""
    configuration = await load(kubeconfig)
    header = await configuration.get_api_key_with_prefix("BearerToken") or ""
    scheme, _, token = header.rpartition(" ")
    return Credentials(
        server=configuration.host,
        ca_path=configuration.ssl_ca_cert,
        certificate_path=configuration.cert_file,
        key_path=configuration.key_file,
        scheme=scheme or None,
        token=token.strip() or None,
        verify=configuration.verify_ssl,
    )
