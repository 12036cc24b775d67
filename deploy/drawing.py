"""Draw which pods may connect to which in the cluster: `python deploy/drawing.py > docs/deployment.svg`.

Arrows and ports are those of the network policies; only the positions of the boxes are chosen here. A test fails when
the file differs.
"""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

KUBERNETES = Path(__file__).parent / "kubernetes"
NAME = "app.kubernetes.io/name"
CALLERS = "callers"
WIDTH, HEIGHT = 930, 440
BOX_WIDTH, BOX_HEIGHT = 190, 70


STYLE = """
.box{fill:#f4f7fb;stroke:#33506e}
.title{font-size:16px;font-weight:bold;text-anchor:middle}
.line{font-size:12px;fill:#444;text-anchor:middle}
.way{stroke:#33506e;stroke-width:1.6;fill:none}
.file{stroke:#8a6d1f;stroke-width:1.6;stroke-dasharray:5 4;fill:none}
.port{font-size:12px;text-anchor:middle;paint-order:stroke;stroke:#fff;stroke-width:5px}
.note{font-size:12px;fill:#444}
"""


class Box(NamedTuple):
    """A kind of process: its labels, and the position of its upper left corner."""

    title: str
    line: str
    x: int
    y: int


BOXES: Mapping[str, Box] = {
    CALLERS: Box("callers, ingress", "of every namespace", 20, 60),
    "gateway": Box("gateway", "no TensorFlow, no state", 370, 60),
    "redis": Box("Redis", "cached vectors", 720, 60),
    "prometheus": Box("Prometheus", "component monitoring", 370, 300),
    "model-server": Box("model server", "TensorFlow Serving, or ours", 720, 200),
    "exporter": Box("exporter", "a job, without network", 720, 340),
}


class Way(NamedTuple):
    """One kind of process may connect to another, at ports."""

    source: str
    target: str
    ports: tuple[str, ...]


def resources(*names: str) -> Iterator[dict[str, Any]]:
    """Read the manifests."""
    for name in names:
        yield from yaml.safe_load_all((KUBERNETES / name).read_text(encoding="utf-8"))


def ports() -> dict[tuple[str, str], int]:
    """Number each port by the deployment and the port's name."""
    found = {}
    for resource in resources("base/gateway.yaml", "base/model-server.yaml", "base/redis.yaml"):
        if resource["kind"] == "Deployment":
            for container in resource["spec"]["template"]["spec"]["containers"]:
                for port in container.get("ports", ()):
                    found[resource["metadata"]["name"], port["name"]] = port["containerPort"]
    return found


def ways() -> list[Way]:
    """List the connections that the policies allow, in the order of the manifests."""
    numbers, found = ports(), []
    for policy in resources("base/network.yaml", "components/monitoring/network.yaml"):
        target = policy["spec"]["podSelector"].get("matchLabels", {}).get(NAME)
        for rule in policy["spec"].get("ingress", ()):
            opened = tuple(f"{port['port']} {numbers[target, port['port']]}" for port in rule["ports"])
            for peer in rule["from"]:
                source = peer.get("podSelector", {}).get("matchLabels", {}).get(NAME, CALLERS)
                found.append(Way(source, target, opened))
    return found


def boxes() -> Iterator[str]:
    """Draw the processes."""
    for box in BOXES.values():
        middle = box.x + BOX_WIDTH // 2
        yield f'<rect x="{box.x}" y="{box.y}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="6" class="box"/>'
        yield f'<text x="{middle}" y="{box.y + 30}" class="title">{box.title}</text>'
        yield f'<text x="{middle}" y="{box.y + 52}" class="line">{box.line}</text>'


def arrow(source: Box, target: Box, label: str, kind: str = "way") -> Iterator[str]:
    """Draw an arrow from the side of one box to the side of another, with a label."""
    if source.x == target.x:
        down, middle = target.y > source.y, source.x + BOX_WIDTH // 2
        start = (middle, source.y + (BOX_HEIGHT if down else 0))
        end = (middle, target.y + (-4 if down else BOX_HEIGHT + 4))
    else:
        side = 1 if target.x > source.x else -1
        half = BOX_WIDTH // 2
        start = (source.x + half + side * half, source.y + 35)
        end = (target.x + half - side * (half + 4), target.y + 35)
    (x1, y1), (x2, y2) = start, end
    yield f'<path d="M{x1} {y1} L{x2} {y2}" class="{kind}" marker-end="url(#head)"/>'
    # Next to the middle of slanting arrows, over the middle of horizontal ones.
    x, y = (x1 + x2) // 2, (y1 + y2) // 2 - (10 if y1 == y2 else 0)
    yield f'<text x="{x}" y="{y}" class="port">{label}</text>'


def drawing() -> str:
    """Return the SVG."""
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif">',
        "<title>Allowed connections</title>",
        f"<style>{STYLE}</style>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">',
        '<path d="M0 0 L8 4 L0 8 z" fill="#33506e"/></marker></defs>',
        '<text x="20" y="34" class="note">Connections without an arrow are refused; the only way out is DNS.</text>',
    ]
    for way in ways():
        lines += arrow(BOXES[way.source], BOXES[way.target], ", ".join(way.ports))
    lines += arrow(BOXES["exporter"], BOXES["model-server"], "writes the volume models", "file")
    return "\n".join([*lines, *boxes(), "</svg>", ""])


if __name__ == "__main__":
    sys.stdout.write(drawing())
