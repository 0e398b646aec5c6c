"""What a free slot runs next.

A slot takes the next rollout of the shards this worker holds; when none is ready the next shard is claimed, while
rollouts of earlier shards still run. So a long tail leaves no slot empty, and the rollouts of a task are admitted one
after the other, to share a prompt prefix.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from kubegym.rollout.pool import ShardPool, Workload

Work = tuple[Workload, int]
"""A workload and the ordinal to run."""


class Scheduler:
    """Feeds slots from claimed shards.

    Args:
        pool: hands out shards.
        opened: told of every shard that was claimed, before its rollouts are handed out; returns the ordinals to
            hand out (suspects of a crash are left out and run elsewhere).
        ceiling_step: how far ahead of admission a shard's ceiling is raised.
    """

    def __init__(self, pool: ShardPool, opened: Callable[[Workload], list[int]], ceiling_step: int) -> None:
        self._pool = pool
        self._opened = opened
        self._step = ceiling_step
        self._ready: deque[Work] = deque()
        self._claiming = asyncio.Lock()
        self._ended = False

    @property
    def ready(self) -> int:
        """Rollouts that could start now."""
        return len(self._ready)

    def stop(self) -> None:
        """Hand out nothing more."""
        self._ended = True
        self._ready.clear()

    async def next(self) -> Work | None:
        """The next rollout, or None when there is none left for this worker."""
        while True:
            if self._ready:
                work = self._ready.popleft()
                shard, ordinal = work[0].shard, work[1]
                if ordinal >= shard.head.ceiling:
                    await shard.raise_ceiling(ordinal, self._step)
                return work
            if self._ended:
                return None
            async with self._claiming:
                if self._ready or self._ended:
                    continue
                workload = await self._pool.claim()
                if workload is None:
                    self._ended = True
                else:
                    self._ready.extend((workload, ordinal) for ordinal in self._opened(workload))
