"""Grafana's JSON, as little of it as a dashboard needs: panels two to a row, variables, one data source."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_WIDTH, _HEIGHT, _COLUMNS = 12, 8, 2


@dataclass(frozen=True)
class Query:
    """A PromQL expression and the legend of its series."""

    expression: str
    legend: str = ""


@dataclass(frozen=True)
class Panel:
    """A chart.

    Attributes:
        title: what it shows.
        queries: series.
        unit: Grafana's name of it: ``s``, ``ops``, ``percentunit``, ``short``, ...
        text: what a reader needs to know beyond the title.
        kind: how it is drawn.
        minimum: of the axis; None leaves it to the data.
    """

    title: str
    queries: tuple[Query, ...]
    unit: str = "short"
    text: str = ""
    kind: Literal["timeseries", "stat", "heatmap", "bargauge", "state-timeline"] = "timeseries"
    minimum: float | None = 0


@dataclass(frozen=True)
class Variable:
    """A choice above the dashboard: values of a label that a metric has."""

    label: str
    metric: str


@dataclass(frozen=True)
class Dashboard:
    """A page of panels."""

    name: str
    title: str
    text: str
    variables: tuple[Variable, ...]
    panels: tuple[Panel, ...]

    def to_json(self) -> str:
        """The dashboard, the same bytes each time."""
        data = {
            "uid": f"kubegym-{self.name}",
            "title": f"KubeGym / {self.title}",
            "description": self.text,
            "tags": ["kubegym"],
            "schemaVersion": 39,
            "editable": True,
            "time": {"from": "now-3h", "to": "now"},
            "refresh": "30s",
            "links": [
                {"type": "dashboards", "tags": ["kubegym"], "title": "KubeGym", "asDropdown": True, "keepTime": True}
            ],
            "templating": {"list": [_data_source(), *_variables(self.variables)]},
            "panels": [_panel(number, panel) for number, panel in enumerate(self.panels)],
        }
        return json.dumps(data, indent=2, ensure_ascii=False) + "\n"


def _data_source() -> dict[str, Any]:
    return {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}


def _variables(variables: Sequence[Variable]) -> list[dict[str, Any]]:
    """Each narrows those behind it."""
    found: list[dict[str, Any]] = []
    for position, variable in enumerate(variables):
        narrowed = ",".join(f'{earlier.label}=~"${earlier.label}"' for earlier in variables[:position])
        found.append(
            {
                "name": variable.label,
                "type": "query",
                "datasource": _SOURCE,
                "query": f"label_values({variable.metric}{{{narrowed}}}, {variable.label})",
                "includeAll": True,
                "allValue": ".*",
                "multi": True,
                "current": {"text": "All", "value": "$__all"},
                "refresh": 2,
                "sort": 1,
            }
        )
    return found


def _panel(number: int, panel: Panel) -> dict[str, Any]:
    row, column = divmod(number, _COLUMNS)
    heatmap = panel.kind == "heatmap"
    bounds = {} if panel.minimum is None else {"min": panel.minimum}
    return {
        "id": number + 1,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.text,
        "datasource": _SOURCE,
        "gridPos": {"x": column * _WIDTH, "y": row * _HEIGHT, "w": _WIDTH, "h": _HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit, **bounds}, "overrides": []},
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": _SOURCE,
                "expr": query.expression,
                "legendFormat": query.legend or "__auto",
                "format": "heatmap" if heatmap else "time_series",
            }
            for index, query in enumerate(panel.queries)
        ],
    }
