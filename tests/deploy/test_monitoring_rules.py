"""Rules that Prometheus takes, alerts that lead to a page, and one truth for compose and cluster."""

import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.settings import Settings
from service.telemetry.metrics import Metrics
from tests.deploy.promql import RULES, RUNBOOKS, Expression, alerts, expressions, rules, selectors
from tests.deploy.tfserving import COMPOSE, compose
from tests.exported_models import REPOSITORY

PROMETHEUS = REPOSITORY / "deploy" / "prometheus"
MONITORING = REPOSITORY / "deploy" / "kubernetes" / "components" / "monitoring"
RULE_TESTS = sorted((PROMETHEUS / "tests").glob("*.yml"))
SECTIONS = ["What it means", "What callers notice", "Where to look", "What to do"]


def promtool(*arguments: str) -> None:
    """Run promtool, which must be content."""
    path = shutil.which("promtool")
    if path is None:
        pytest.skip("needs promtool on PATH; Debian has it in the package prometheus")
    done = subprocess.run([path, *arguments], cwd=PROMETHEUS, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def written_by(script: str) -> str:
    """What one of the scripts under deploy/ writes."""
    command = [sys.executable, str(REPOSITORY / "deploy" / script)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


@pytest.mark.parametrize("expression", expressions(), ids=lambda expression: expression.place)
def test_every_expression_is_promql_that_asks_for_something(expression: Expression) -> None:
    """Rules, panels, annotations and runbooks; one that cannot be parsed raises."""
    assert selectors(expression.text)


def test_recorded_names_are_recorded() -> None:
    """Every recorded series that is used is recorded by a rule."""
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    asked = {str(s.name) for e in expressions() for s in selectors(e.text) if str(s.name).startswith("microtome:")}
    assert asked == recorded


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert["alert"])
def test_every_alert_says_how_urgent_it_is_and_where_to_read_on(alert: dict[str, Any]) -> None:
    """A severity that routes it, a summary, a description, and a runbook that Prometheus serves in compose."""
    assert alert["labels"]["severity"] in {"critical", "warning"}
    assert {"summary", "description", "runbook_url"} == alert["annotations"].keys()
    address, _, name = alert["annotations"]["runbook_url"].rpartition("/")
    assert "{{ $externalURL }}/consoles" == address
    text = (RUNBOOKS / name).read_text(encoding="utf-8")
    assert [alert["alert"]] == re.findall(r"^# (.*)", text, re.MULTILINE)
    assert SECTIONS == re.findall(r"^## (.*)", text, re.MULTILINE)


def test_runbooks_open_in_compose_and_in_a_copy_of_the_site() -> None:
    """Prometheus has them where alerts lead, at the address that is published; all are pages of the site."""
    prometheus = compose()["services"]["prometheus"]
    options = dict(word.removeprefix("--").split("=", 1) for word in prometheus["command"])
    volumes = [one.replace("${CHECKOUT:-../..}", "../..").split(":") for one in prometheus["volumes"]]
    (mounted,) = [volume for volume in volumes if volume[1] == options["web.console.templates"]]
    assert RUNBOOKS.resolve() == (COMPOSE.parent / mounted[0]).resolve()
    (port,) = [one.rsplit(":", 1)[0].replace("127.0.0.1", "localhost") for one in prometheus["ports"]]
    assert f"http://{port}" == options["web.external-url"]
    words = [sys.executable, str(PROMETHEUS / "prometheus_rule.py"), "https://docs.acme.org/of-ours/docs/runbooks/"]
    written = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True).stdout
    links = re.findall(r"runbook_url: (\S+)", written)
    assert len(alerts()) == len(links)
    tracked = {str(page) for page in runpy.run_path(str(REPOSITORY / "docs" / "site.py"))["pages"]()}
    for link in links:
        page = link.removeprefix("https://docs.acme.org/of-ours/")
        assert page.removesuffix("html") + "md" in tracked


def test_every_runbook_belongs_to_an_alert() -> None:
    """No page without an alert, and the index names them all."""
    linked = {Path(alert["annotations"]["runbook_url"]).name for alert in alerts()}
    assert linked == {page.name for page in RUNBOOKS.glob("*.md")} - {"README.md"}
    index = (RUNBOOKS / "README.md").read_text(encoding="utf-8")
    assert {(alert["alert"], Path(alert["annotations"]["runbook_url"]).name) for alert in alerts()} == set(
        re.findall(r"^\| (\w+) \| \[[\w-]+\]\(([\w.-]+)\) \|", index, re.MULTILINE)
    )


@pytest.mark.parametrize("page", sorted(RUNBOOKS.glob("*.md")), ids=lambda page: page.stem)
def test_links_and_settings_of_runbooks_exist(page: Path) -> None:
    """Runbooks have no dead links, and name no setting that does not exist."""
    text = page.read_text(encoding="utf-8")
    assert [] == [link for link in re.findall(r"\]\(([^)#]+)\)", text) if not (page.parent / link).exists()]
    settings = {f"MICROTOME_{name.upper()}" for name in Settings.model_fields}
    assert set(re.findall(r"MICROTOME_[A-Z0-9_]+", text)) <= settings


def test_slow_is_a_bucket_of_the_histogram() -> None:
    """The latency objective counts a bucket; without it the objective would count nothing, in silence."""
    (bound,) = {
        m.value for rule in rules() for s in selectors(rule["expr"]) for m in s.matchers.matchers if m.name == "le"
    }
    metrics = Metrics()
    metrics.request_seconds.labels("/embed").observe(0)
    assert f'microtome_request_seconds_bucket{{le="{bound}",route="/embed"}} 1.0' in metrics.exposition().decode()


def test_promtool_takes_rules_and_configuration() -> None:
    """Prometheus' own parser finds nothing wrong."""
    promtool("check", "rules", *(str(path) for path in sorted(RULES.glob("*.yml"))))
    promtool("check", "config", "prometheus.yml")


def test_alerts_fire_when_they_should_and_only_then() -> None:
    """The scenarios under deploy/prometheus/tests, played by promtool."""
    promtool("test", "rules", *(str(path) for path in RULE_TESTS))


def test_every_alert_has_a_scenario() -> None:
    """An alert that no scenario names might never fire."""
    told = "\n".join(path.read_text(encoding="utf-8") for path in RULE_TESTS)
    scenarios = set(re.findall(r"""alertname(?:: |=")(\w+)""", told))
    assert scenarios == {alert["alert"] for alert in alerts()}


def test_the_cluster_has_the_same_rules() -> None:
    """The PrometheusRule is what its script writes from the rule files."""
    written = (MONITORING / "prometheus-rule.yaml").read_text(encoding="utf-8")
    assert written_by("prometheus/prometheus_rule.py") == written, "see deploy/prometheus/prometheus_rule.py"
    groups = yaml.safe_load(written)["spec"]["groups"]
    inside = [rule for group in groups for rule in group["rules"]]
    for rule in (rule for rule in inside if "alert" in rule):
        name = Path(rule["annotations"]["runbook_url"]).stem
        rule["annotations"]["runbook_url"] = f"{{{{ $externalURL }}}}/consoles/{name}.md"
    assert sorted(map(str, rules())) == sorted(map(str, inside))


def test_compose_and_cluster_name_their_jobs_alike() -> None:
    """Alerts use `up{job=…}`: scrape configurations must use those names, and the paths that the processes serve."""
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text(encoding="utf-8"))
    scraped = {job["job_name"]: job.get("metrics_path", "/metrics") for job in config["scrape_configs"]}
    monitors = list(yaml.safe_load_all((MONITORING / "service-monitors.yaml").read_text(encoding="utf-8")))
    endpoints = [endpoint for monitor in monitors for endpoint in monitor["spec"]["endpoints"]]
    watched = {e["relabelings"][0]["replacement"]: e["path"] for e in endpoints}
    assert watched == {name: path for name, path in scraped.items() if name != "prometheus"}
    jobs = {m.value for e in expressions() for s in selectors(e.text) for m in s.matchers.matchers if m.name == "job"}
    # Theirs to scrape: redis_exporter, where there is one.
    assert jobs - {"microtome-redis"} == set(watched)
