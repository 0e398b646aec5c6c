"""A shuffled order that is the same on every machine."""

from __future__ import annotations

import random
from array import array


def permutation(count: int, seed: int) -> array[int]:
    """The order in which a dataset of ``count`` rows is read under a shuffle seed.

    Fisher-Yates over ``random.Random.random()``, the one method whose sequence Python promises never to change
    (``shuffle`` and ``randrange`` may); the arithmetic is IEEE 754, so the machine does not enter either.

    Args:
        count: number of rows, below 2**53.
        seed: any integer.

    Returns:
        Row numbers: element ``i`` is the row that comes ``i``-th. 8 bytes a row.
    """
    # A string, because Random takes the absolute value of an integer: -1 and 1 would be one seed.
    draw = random.Random(str(seed)).random
    order = array("Q", range(count))
    for last in range(count - 1, 0, -1):
        other = int(draw() * (last + 1))
        order[last], order[other] = order[other], order[last]
    return order
