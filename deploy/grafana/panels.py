"""Panels and the layout of a dashboard, in Grafana's JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any

COLUMNS = 24
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
YES_NO = [{"type": "value", "options": {"0": {"text": "no", "color": "red"}, "1": {"text": "yes", "color": "green"}}}]


@dataclass(frozen=True)
class Panel:
    """One panel. `queries` maps legends to expressions; `steps` colours a number from each threshold on."""

    title: str
    description: str
    unit: str
    queries: Mapping[str, str]
    width: int = 8
    stat: bool = False
    steps: Sequence[tuple[float | None, str]] = ((None, "green"),)
    yes_no: bool = False
    top: float | None = None
    stacked: bool = False


def dashboard(rows: Mapping[str, Sequence[Panel]]) -> dict[str, Any]:
    """Lay out rows of panels under each other."""
    panels: list[dict[str, Any]] = []
    y = 0
    for title, row in rows.items():
        panels.append(_row(title, len(panels) + 1, y))
        y += 1
        x = 0
        for panel in row:
            height = 4 if panel.stat else 8
            if x + panel.width > COLUMNS:
                x, y = 0, y + height
            panels.append(_panel(panel, len(panels) + 1, {"x": x, "y": y, "w": panel.width, "h": height}))
            x += panel.width
        y += height
    return {
        "uid": "microtome",
        "title": "Microtome",
        "description": "Runbooks: docs/runbooks/. Metrics: docs/reference/metrics.md.",
        "tags": ["microtome"],
        "schemaVersion": 39,
        "editable": False,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "timezone": "browser",
        "graphTooltip": 1,
        "templating": {"list": _variables()},
        "annotations": {"list": [_alerts()]},
        "panels": panels,
    }


def _row(title: str, number: int, y: int) -> dict[str, Any]:
    place = {"x": 0, "y": y, "w": COLUMNS, "h": 1}
    return {"id": number, "type": "row", "title": title, "collapsed": False, "gridPos": place, "panels": []}


def _panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    defaults: dict[str, Any] = {"unit": panel.unit, "min": 0}
    if panel.top is not None:
        defaults["max"] = panel.top
    if panel.yes_no:
        defaults["mappings"] = YES_NO
    steps = [{"value": value, "color": color} for value, color in panel.steps]
    if panel.stat:
        defaults |= {"color": {"mode": "thresholds"}, "thresholds": {"mode": "absolute", "steps": steps}}
        options: dict[str, Any] = {"colorMode": "background", "reduceOptions": {"calcs": ["lastNotNull"]}}
    else:
        filled = {"fillOpacity": 25, "stacking": {"mode": "normal"}} if panel.stacked else {"fillOpacity": 0}
        defaults["custom"] = {**filled, "showPoints": "never"}
        options = {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}}
    return {
        "id": number,
        "type": "stat" if panel.stat else "timeseries",
        "title": panel.title,
        "description": panel.description,
        "datasource": SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
        "targets": [
            {"refId": letter, "datasource": SOURCE, "expr": expr, "legendFormat": legend, "instant": panel.stat}
            for letter, (legend, expr) in zip(ascii_uppercase, panel.queries.items(), strict=False)
        ],
    }


def _variables() -> list[dict[str, Any]]:
    def of_label(name: str) -> dict[str, Any]:
        query = f"label_values(microtome_model_ready, {name})"
        # ".*" and not a list of all values: it also matches series without the label.
        every = {"multi": True, "includeAll": True, "allValue": ".*", "current": {"text": "All", "value": "$__all"}}
        return {"type": "query", "name": name, "datasource": SOURCE, "query": query, "refresh": 2, **every}

    source = {"type": "datasource", "name": "datasource", "query": "prometheus"}
    return [source, of_label("namespace"), of_label("model")]


def _alerts() -> dict[str, Any]:
    expr = 'ALERTS{alertname=~"Microtome.*",alertstate="firing"}'
    shown = {"titleFormat": "{{alertname}}", "textFormat": "{{severity}}", "iconColor": "red"}
    return {"name": "Alerts", "enable": True, "datasource": SOURCE, "expr": expr, **shown}
