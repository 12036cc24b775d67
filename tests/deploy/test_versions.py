"""What is said in several places is the same in all of them."""

import re
from pathlib import Path

from microtome import __version__
from tests.deploy.manifests import find, render

PLACES = ("Dockerfile", "Makefile", "deploy/compose/compose.yaml")


def test_images_carry_the_packages_version(repository: Path) -> None:
    """In the Dockerfile, in the compose file, in every manifest and in the verb that builds them."""
    told = {
        version
        for place in PLACES
        for version in re.findall(r"microtome/\S+?:(\d\S*)", (repository / place).read_text(encoding="utf-8"))
    }
    for chosen in (("production",), ("production", "embedded")):
        told |= set(re.findall(r"microtome/\w+:([\w.]+)", str(render(chosen))))
    label = re.findall(r'image\.version="(.*)"', (repository / "Dockerfile").read_text(encoding="utf-8"))
    assert {__version__} == told | set(label)


def test_autoscaling_asks_for_metrics_that_there_are(repository: Path) -> None:
    """Every metric in the triggers is in the reference, which is generated from the code."""
    scaled = find(render(("production", "autoscaling")), "ScaledObject", "model-server")
    asked = {name for t in scaled["spec"]["triggers"] for name in re.findall(r"microtome_\w+", t["metadata"]["query"])}
    known = (repository / "docs" / "reference" / "metrics.md").read_text(encoding="utf-8")
    assert asked
    assert [] == [name for name in asked if f"`{re.sub('_(sum|count|bucket)$', '', name)}`" not in known]
