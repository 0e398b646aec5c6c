"""Typed configuration and rows: pydantic with the right defaults for each."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Model(BaseModel):
    """Base of an environment's ``Config``: unknown fields are errors, instances do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Row(BaseModel):
    """Base of an environment's ``Task``: the row's own fields, checked before the run starts.

    Fields that the class does not name are kept and echoed. They are shared with the row, and with it by all rollouts
    of the task: read them, never change them.
    """

    model_config = ConfigDict(extra="allow", frozen=True)
