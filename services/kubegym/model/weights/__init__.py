"""Weights that are exchanged while a model serves: loaded in place, proven, or put back (DESIGN sections 3 and 5).

``canary`` says what weights have to answer, ``checkpoint`` whether a folder can be loaded at all, ``engines`` how an
engine is told, ``places`` where announced weights come from, ``served`` what a replica begins
with, and ``exchange`` does all of it in the right order.
"""

from kubegym.model.weights.canary import CANARY_FILE, Canary, Probe
from kubegym.model.weights.engines import WeightsEngine
from kubegym.model.weights.errors import WeightsError
from kubegym.model.weights.exchange import Exchange
from kubegym.model.weights.places import Places
from kubegym.model.weights.served import Start

__all__ = ["CANARY_FILE", "Canary", "Exchange", "Places", "Probe", "Start", "WeightsEngine", "WeightsError"]
