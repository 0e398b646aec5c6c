"""Why weights were not taken.

::

    KubeGymError               core.errors
    └── WeightsError           these weights are not served: WeightsCorrupt (broken files, or they do not answer as they
                               should), WeightsNotFound, CanaryMissing, WeightsUnsupported (this engine cannot do it),
                               WeightsStale (an older version than the one served), FetchFailed, EngineUnavailable
"""

from __future__ import annotations

from kubegym.core.errors import KubeGymError


class WeightsError(KubeGymError):
    """Weights that are not served; ``reason`` says why."""

    reason = "WeightsCorrupt"
