"""Every metric is in a panel, in a rule, or in the list of those that are left out."""

import re
import runpy

from modelserver.metrics import Counter, Histogram
from modelserver.metrics import Metrics as ModelServerMetrics
from service.telemetry.metrics import Metrics as GatewayMetrics
from tests.deploy.promql import expressions, selectors
from tests.exported_models import REPOSITORY

NOT_SHOWN: dict[str, str] = runpy.run_path(str(REPOSITORY / "deploy" / "grafana" / "not_shown.py"))["NOT_SHOWN"]


def declared() -> set[str]:
    """Name the metrics of both processes as their code declares them, histograms without suffix."""
    theirs = {m.name for m in vars(ModelServerMetrics()).values() if isinstance(m, Counter | Histogram)}
    return {metric.name for metric in GatewayMetrics().described()} | theirs


def asked_for() -> set[str]:
    """Name what panels and rules ask for, histograms without suffix. Runbooks are read too late to count."""
    watching = [e for e in expressions() if e.place.startswith(("panel ", "rule "))]
    names = {str(selector.name) for expression in watching for selector in selectors(expression.text)}
    return {re.sub(r"_(bucket|sum|count)$", "", name) if name not in declared() else name for name in names}


def test_every_metric_is_watched_or_left_out_for_a_reason() -> None:
    """Who adds a metric adds a panel or a rule, or says in deploy/grafana/not_shown.py why neither is needed."""
    assert set() == declared() - asked_for() - NOT_SHOWN.keys()


def test_what_is_left_out_exists_and_is_left_out() -> None:
    """The list does not outlive what it speaks of, and gives its reasons."""
    assert set() == NOT_SHOWN.keys() - declared()
    assert set() == NOT_SHOWN.keys() & asked_for()
    assert all(NOT_SHOWN.values())


def test_both_processes_declare_metrics() -> None:
    """The comparison above is not one of nothing with nothing."""
    names = declared()
    assert {"microtome_vectors_total", "microtome_queued_images", ":tensorflow:serving:request_latency"} <= names
    assert len(names) > 25
