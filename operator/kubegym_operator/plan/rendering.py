"""What a child was applied as, kept on the child itself.

A newer operator renders it otherwise, and is to leave it as it is (rule 2). Only with the old rendering at hand can it
tell that somebody edited the child, and put it back. The annotation is compressed, and read no more often than needed.
"""

from __future__ import annotations

import base64
import json
import zlib
from typing import Final

from kubegym.core.ids import canonical_json
from kubegym_operator.build.labels import RENDERING
from kubegym_operator.plan.actions import Object
from kubegym_operator.plan.objects import annotations_of

_LARGEST: Final = 64 << 10
"""Characters beyond which it is not kept: all annotations of an object together may have 256 KiB."""


def with_rendering(obj: Object) -> Object:
    """The object with itself in an annotation."""
    packed = base64.b85encode(zlib.compress(canonical_json(obj), 9)).decode()
    return _annotated(obj, packed) if len(packed) <= _LARGEST else obj


def rendering_of(obj: Object) -> Object | None:
    """What an object was applied as; None where it does not say."""
    packed = annotations_of(obj).get(RENDERING)
    if packed is None:
        return None
    try:
        found = json.loads(zlib.decompress(base64.b85decode(packed)))
    except (ValueError, zlib.error):
        return None
    return found if isinstance(found, dict) else None


def without_rendering(obj: Object) -> Object:
    """The object without the annotation."""
    return _annotated(obj, None) if RENDERING in annotations_of(obj) else obj


def _annotated(obj: Object, packed: str | None) -> Object:
    metadata = obj["metadata"]
    annotations = {name: value for name, value in annotations_of(obj).items() if name != RENDERING}
    if packed is not None:
        annotations[RENDERING] = packed
    return {**obj, "metadata": {**metadata, "annotations": annotations}}
