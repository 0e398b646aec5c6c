"""Where the API server is and who we are: in a cluster from the pod's service account, elsewhere from a kubeconfig."""

from __future__ import annotations

import os
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
