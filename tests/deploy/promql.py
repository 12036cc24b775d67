"""What Prometheus is asked for: every expression of the rules, the dashboard and the runbooks, parsed."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import promql_parser as promql
import yaml

from tests.exported_models import REPOSITORY

RULES = REPOSITORY / "deploy" / "prometheus" / "rules"
DASHBOARD = REPOSITORY / "deploy" / "grafana" / "dashboards" / "microtome.json"
RUNBOOKS = REPOSITORY / "docs" / "runbooks"
SCALER = REPOSITORY / "deploy" / "kubernetes" / "components" / "autoscaling" / "model-server.yaml"

# What Grafana puts in for variables when all of them are chosen.
VARIABLES = {"$__rate_interval": "1m", "$namespace": ".*", "$model": ".*"}

# Where triggers ask: kustomize puts the namespace in.
NAMESPACE = 'namespace="$(NAMESPACE)"'


class Expression(NamedTuple):
    """A query and the place where it stands."""

    place: str
    text: str


def rules() -> list[dict[str, Any]]:
    """Every recording and alert rule."""
    files = sorted(RULES.glob("*.yml"))
    groups = [group for file in files for group in yaml.safe_load(file.read_text(encoding="utf-8"))["groups"]]
    return [rule for group in groups for rule in group["rules"]]


def alerts() -> list[dict[str, Any]]:
    """Every alert rule."""
    return [rule for rule in rules() if "alert" in rule]


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana reads it."""
    board: dict[str, Any] = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return board


def panels() -> list[dict[str, Any]]:
    """The dashboard's panels that ask for something; rows do not."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def filled(text: str) -> str:
    """Put something in for Grafana's variables, as Grafana does."""
    for name, value in VARIABLES.items():
        text = text.replace(name, value)
    return text


def panel_expressions() -> list[Expression]:
    """Every query of the dashboard."""
    return [
        Expression(f"panel {panel['title']!r}", filled(target["expr"]))
        for panel in panels()
        for target in panel["targets"]
    ]


def expressions() -> list[Expression]:
    """Every query there is."""
    ruled = [Expression(f"rule {rule.get('record') or rule['alert']}", rule["expr"]) for rule in rules()]
    pages = {page: page.read_text(encoding="utf-8") for page in sorted(RUNBOOKS.glob("*.md"))}
    told = [
        Expression(f"runbook {page.name}", block)
        for page, text in pages.items()
        for block in re.findall(r"```promql\n(.*?)```", text, re.DOTALL)
    ]
    shown = [Expression("annotation", item["expr"]) for item in dashboard()["annotations"]["list"]]
    return ruled + told + shown + panel_expressions() + trigger_expressions()


def trigger_expressions() -> list[Expression]:
    """Every query that an autoscaler asks."""
    triggers = yaml.safe_load(SCALER.read_text(encoding="utf-8"))["spec"]["triggers"]
    asked = [(trigger["name"], trigger["metadata"]["query"]) for trigger in triggers]
    assert all(NAMESPACE in query for _, query in asked)
    return [Expression(f"trigger {name}", query.replace(NAMESPACE, 'namespace=~".*"')) for name, query in asked]


def selectors(text: str) -> list[promql.VectorSelector]:
    """Every series that an expression asks for, such as `up{job="x"}`."""
    return [part for part in parts(promql.parse(text)) if isinstance(part, promql.VectorSelector)]


def grouped(text: str) -> Iterator[tuple[set[str], list[promql.VectorSelector]]]:
    """Every `by (…)` of an expression, with the series under it."""
    for part in parts(promql.parse(text)):
        if isinstance(part, promql.AggregateExpr) and part.modifier is not None:
            assert part.modifier.type == promql.AggModifierType.By, "only `by` says which labels are left"
            below = [inner for inner in parts(part.expr) if isinstance(inner, promql.VectorSelector)]
            yield set(part.modifier.labels), below


def parts(expression: promql.Expr) -> list[promql.Expr]:
    """An expression and all that it is made of."""
    found: list[promql.Expr] = []

    def visit(part: promql.Expr) -> bool:
        found.append(part)
        return True

    promql.walk(expression, visit)
    return found


def selects(selector: promql.VectorSelector, labels: Mapping[str, str]) -> bool:
    """Whether the matchers of a selector let a series through; a label that is absent is empty, as in Prometheus."""
    return all(_matches(matcher, labels.get(matcher.name, "")) for matcher in selector.matchers.matchers)


def _matches(matcher: promql.Matcher, value: str) -> bool:
    if matcher.op == promql.MatchOp.Equal:
        return bool(matcher.value == value)
    if matcher.op == promql.MatchOp.NotEqual:
        return bool(matcher.value != value)
    return (re.fullmatch(matcher.value, value) is not None) == bool(matcher.op == promql.MatchOp.Re)
