"""Kinds that are installed while the operator runs: LeaderWorkerSet, or ours.

An operator of single namespaces may not watch CustomResourceDefinitions, which belong to the cluster. It asks now and
then what is served, which everybody may, and has the watches begin anew when there is more.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass

from kubegym_operator.kube.errors import KubeError
from kubegym_operator.kube.protocol import Kind, KubeApi
from kubegym_operator.reconcile.watched import WATCHED

log = logging.getLogger("kubegym.operator")


@dataclass
class Arrivals:
    """Looks for kinds that were not served before.

    Attributes:
        api: the API server.
        arrived: told of those that are now.
        kinds: looked for.
        period: seconds between two looks.
    """

    api: KubeApi
    arrived: Callable[[Collection[Kind]], None]
    kinds: Collection[Kind] = WATCHED
    period: float = 30.0

    async def run(self) -> None:
        """Look until cancelled. A failure is logged, and means nothing."""
        known: set[Kind] | None = None
        while True:
            try:
                served = {kind for kind in self.kinds if await self.api.serves(kind)}
            except KubeError as error:
                log.warning("what is installed cannot be seen: %s: %s", error.reason, error)
            else:
                if known is not None and (new := served - known):
                    log.info("installed meanwhile: %s", ", ".join(sorted(kind.kind for kind in new)))
                    self.arrived(new)
                known = served
            await asyncio.sleep(self.period)
