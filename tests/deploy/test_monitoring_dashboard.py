"""A dashboard that Grafana can show and that a person on call can read."""

import subprocess
import sys
from typing import Any

import pytest
import yaml

from tests.deploy.promql import DASHBOARD, dashboard, panels
from tests.exported_models import REPOSITORY

GRAFANA = REPOSITORY / "deploy" / "grafana"
UNITS = {"Bps", "bool_yes_no", "bytes", "celsius", "none", "ops", "percent", "percentunit", "reqps", "s", "short", "µs"}


def test_the_dashboard_is_what_its_script_says() -> None:
    """It is written by deploy/grafana/dashboard.py and by nothing else."""
    command = [sys.executable, str(GRAFANA / "dashboard.py")]
    written = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=60, check=True).stdout
    assert written == DASHBOARD.read_text(encoding="utf-8"), "see deploy/grafana/dashboard.py"


def test_numbers_and_titles_are_unique() -> None:
    """Grafana takes panels with one number for the same panel; people, those with one title."""
    numbers = [panel["id"] for panel in dashboard()["panels"]]
    titles = [panel["title"] for panel in panels() if panel["type"] != "stat"]
    assert sorted(set(numbers)) == sorted(numbers)
    assert sorted(set(titles)) == sorted(titles)


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: f"{panel['id']} {panel['title']}")
def test_every_panel_can_be_read(panel: dict[str, Any]) -> None:
    """A title, a sentence about what is shown, a unit that Grafana knows, the chosen data source."""
    assert panel["title"]
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
    letters = [target["refId"] for target in panel["targets"]]
    assert letters
    assert sorted(set(letters)) == letters
    assert all(part["datasource"]["uid"] == "${datasource}" for part in (panel, *panel["targets"]))
    assert all(target["legendFormat"] for target in panel["targets"])


def test_variables_are_declared_and_used() -> None:
    """The data source can be chosen; every other variable narrows some query."""
    variables = [variable["name"] for variable in dashboard()["templating"]["list"]]
    queries = "".join(target["expr"] for panel in panels() for target in panel["targets"])
    assert ["datasource", "namespace", "model"] == variables
    assert all(f"${name}" in queries for name in variables[1:])
    assert "$" not in queries.replace("$__rate_interval", "").replace("$namespace", "").replace("$model", "")


def test_panels_fill_the_grid_and_never_overlap() -> None:
    """24 columns; a cell belongs to one panel."""
    cells = [
        (x, y)
        for at in (panel["gridPos"] for panel in dashboard()["panels"])
        for x in range(at["x"], at["x"] + at["w"])
        for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) == 23


def test_what_matters_most_is_on_top() -> None:
    """Ready? Requests, errors, durations, hit rate, room; then the stages, the model servers, Redis."""
    rows = [panel["title"] for panel in dashboard()["panels"] if panel["type"] == "row"]
    glance = [panel["title"] for panel in panels() if panel["type"] == "stat"]
    assert glance == [panel["title"] for panel in panels()[: len(glance)]]
    assert [
        "Ready",
        "Gateways",
        "Requests",
        "Errors",
        "Duration",
        "Hit rate",
        "Fullest gateway",
        "Without Redis",
    ] == glance
    assert rows == [
        "Does it work?",
        "Requests",
        "Stages of a request",
        "Models and model servers",
        "GPUs",
        "Redis",
        "Redis itself",
        "Processes of the gateways",
    ]


def test_grafana_finds_prometheus_and_the_dashboard() -> None:
    """Provisioning is the form that Grafana reads: a Prometheus as the default source, one folder of dashboards."""
    provisioning = GRAFANA / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yaml").read_text())["datasources"]
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "microtome.yaml").read_text())["providers"]
    assert ("prometheus", True) == (source["type"], source["isDefault"])
    assert "file" == provider["type"]
    assert [DASHBOARD] == list((GRAFANA / "dashboards").iterdir())
