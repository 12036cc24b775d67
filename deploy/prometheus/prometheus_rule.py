"""Write the rules as the Prometheus operator's PrometheusRule, from the files that Prometheus itself reads.

`python deploy/prometheus/prometheus_rule.py > deploy/kubernetes/components/monitoring/prometheus-rule.yaml`
A test fails when the file differs. The address of your own copy of the runbooks, as `make site` builds it, follows:
`python deploy/prometheus/prometheus_rule.py https://docs.example.com/docs/runbooks > prometheus-rule.yaml`
"""

import sys
from pathlib import Path
from typing import Any

import yaml

RULES = Path(__file__).parent / "rules"
RUNBOOKS = "https://microtome.example.com/docs/runbooks"
"""Where the site is published: the host that is patched in other components too."""


def prometheus_rule(runbooks: str) -> dict[str, Any]:
    """Return the resource, with the groups of all rule files; alerts lead to pages below the runbooks' address."""
    files = sorted(RULES.glob("*.yml"), reverse=True)  # recording rules before the alerts that use them
    groups = [group for file in files for group in yaml.safe_load(file.read_text(encoding="utf-8"))["groups"]]
    for rule in (rule for group in groups for rule in group["rules"] if "alert" in rule):
        page = Path(rule["annotations"]["runbook_url"]).stem
        # A copy, since rules of several windows share their annotations.
        rule["annotations"] = {**rule["annotations"], "runbook_url": f"{runbooks.rstrip('/')}/{page}.html"}
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "microtome"},
        "spec": {"groups": groups},
    }


class _Plain(yaml.SafeDumper):
    """A dumper without anchors."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Plain.add_representer(str, _text)

if __name__ == "__main__":
    resource = prometheus_rule(sys.argv[1] if sys.argv[1:] else RUNBOOKS)
    sys.stdout.write("# Written by deploy/prometheus/prometheus_rule.py from deploy/prometheus/rules/. Do not edit.\n")
    yaml.dump(resource, sys.stdout, Dumper=_Plain, sort_keys=False, width=120, allow_unicode=True)
