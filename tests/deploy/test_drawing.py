"""The picture of the deployment says what the network policies say."""

import runpy
import xml.etree.ElementTree as ET
from typing import Any

import yaml

from tests.exported_models import REPOSITORY

DRAWING: dict[str, Any] = runpy.run_path(str(REPOSITORY / "deploy" / "drawing.py"))
PICTURE = REPOSITORY / "docs" / "deployment.svg"


def test_the_picture_is_what_its_script_draws() -> None:
    """It is written by deploy/drawing.py and by nothing else, and it is a picture."""
    assert DRAWING["drawing"]() == PICTURE.read_text(encoding="utf-8"), "see deploy/drawing.py"
    assert "svg" in ET.parse(PICTURE).getroot().tag


def test_its_arrows_are_what_is_open() -> None:
    """TensorFlow Serving has no authentication: only gateways may call it, and only Prometheus may read its metrics."""
    arrows = {(way.source, way.target): way.ports for way in DRAWING["ways"]()}
    assert {
        ("callers", "gateway"): ("http 8000", "grpc 8001"),
        ("prometheus", "gateway"): ("metrics 8002",),
        ("gateway", "model-server"): ("grpc 8500",),
        ("prometheus", "model-server"): ("rest 8501",),
        ("gateway", "redis"): ("redis 6379",),
    } == arrows


def test_what_gateways_may_reach_lets_them_in() -> None:
    """A way is open at both of its ends."""
    policies = yaml.safe_load_all((REPOSITORY / "deploy/kubernetes/base/network.yaml").read_text(encoding="utf-8"))
    (gateway,) = [policy["spec"] for policy in policies if policy["metadata"]["name"] == "gateway"]
    reached = {peer["podSelector"]["matchLabels"][DRAWING["NAME"]] for rule in gateway["egress"] for peer in rule["to"]}
    assert {way.target for way in DRAWING["ways"]() if way.source == "gateway"} == reached
