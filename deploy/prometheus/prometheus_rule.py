"""Write the rules as the Prometheus operator's PrometheusRule, from the files that Prometheus itself reads.

`python deploy/prometheus/prometheus_rule.py > deploy/kubernetes/components/monitoring/prometheus-rule.yaml`
A test fails when the file differs.
"""

import sys
from pathlib import Path
from typing import Any

import yaml

RULES = Path(__file__).parent / "rules"


def prometheus_rule() -> dict[str, Any]:
    """Return the resource, with the groups of all rule files."""
    files = sorted(RULES.glob("*.yml"), reverse=True)  # recording rules before the alerts that use them
    groups = [group for file in files for group in yaml.safe_load(file.read_text(encoding="utf-8"))["groups"]]
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
    sys.stdout.write("# Written by deploy/prometheus/prometheus_rule.py from deploy/prometheus/rules/. Do not edit.\n")
    yaml.dump(prometheus_rule(), sys.stdout, Dumper=_Plain, sort_keys=False, width=120, allow_unicode=True)
