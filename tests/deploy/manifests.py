"""The manifests as kubectl renders them: every overlay, alone and with components, for two recipes."""

import atexit
import functools
import itertools
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from microtome.commands.manifests import main
from tests.deploy.tools import tool
from tests.exported_models import REPOSITORY

KUBERNETES = REPOSITORY / "deploy" / "kubernetes"
OVERLAYS = sorted(path.name for path in (KUBERNETES / "overlays").iterdir())
COMPONENTS = sorted(path.name for path in (KUBERNETES / "components").iterdir())
EXCLUSIVE = {"gpu", "embedded"}
"""Two answers to the same question: no deployment has both."""
OTHER = "other-recipe"
"""In a combination: of the files that `microtome manifests` writes for OTHER_RECIPE, in place of those of deploy/."""
OTHER_RECIPE = """\
models:
  - name: mobile
    backbone: MobileNetV2
    weights: random
    version: 3
    outputs: [{name: early, layer: block_3_expand_relu, pooling: avg}, {name: late, layer: out_relu, pooling: avg}]
  - name: own
    backbone: own:build
    weights: own
    input: {size: 64, scaling: tf}
    outputs: [{name: top, layer: last, pooling: avg}, {name: kinds, kind: classes, layer: end, labels: names/kinds.txt}]
"""
"""Two models of other backbones, one of them pinned; the other is a function, in a file beside the recipe."""
OWN_FUNCTION = """\
import keras
from keras import layers


def build():
    image = keras.Input((64, 64, 3))
    last = layers.Conv2D(8, 3, strides=4, activation="relu", name="last")(image)
    return keras.Model(image, layers.Dense(2, activation="softmax", name="end")(layers.GlobalAveragePooling2D()(last)))
"""

Manifest = Mapping[str, Any]
Combination = tuple[str, ...]


def combinations() -> list[Combination]:
    """List overlays and their components: each component, each pair of them, and as many as go together.

    Patches that do not get along show in pairs; all of the 384 combinations would take minutes and tell no more.
    """
    everything = [tuple(c for c in COMPONENTS if c != left_out) for left_out in sorted(EXCLUSIVE)]
    few = [
        chosen
        for number in range(3)
        for chosen in itertools.combinations(COMPONENTS, number)
        if not set(chosen) >= EXCLUSIVE
    ]
    return [
        (overlay, *chosen, *recipe)
        for recipe in ((), (OTHER,))
        for overlay in OVERLAYS
        for chosen in [*(few if overlay == "production" else [()]), *everything]
    ]


@functools.cache
def written() -> Path:
    """Let `microtome manifests` write the files for OTHER_RECIPE, and return where they are."""
    directory = Path(tempfile.mkdtemp(prefix="microtome-manifests-"))
    atexit.register(shutil.rmtree, directory)
    (directory / "names").mkdir()
    for name, text in {"mine.yaml": OTHER_RECIPE, "own.py": OWN_FUNCTION, "names/kinds.txt": "a\nb\n"}.items():
        (directory / name).write_text(text, encoding="utf-8")
    assert 0 == main(["manifests", str(directory / "mine.yaml"), "--out", str(directory / "mine")])
    return directory / "mine"


@functools.cache
def render(combination: Combination) -> tuple[Manifest, ...]:
    """Let kubectl render an overlay with components, put together the way deploy/README.md says."""
    with tempfile.TemporaryDirectory() as directory:
        return render_in(Path(directory), combination, {})


def render_in(directory: Path, combination: Combination, added: Mapping[str, Any]) -> tuple[Manifest, ...]:
    """Let kubectl render an overlay with components and what an operator's kustomization has beside."""
    overlay, *components = (part for part in combination if part != OTHER)
    root = written() / "kubernetes" if OTHER in combination else KUBERNETES
    above = os.path.relpath(root.resolve(), directory.resolve())
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": "microtome",
        "resources": [f"{above}/overlays/{overlay}"],
        "components": [f"{above}/components/{component}" for component in components],
        **added,
    }
    (directory / "kustomization.yaml").write_text(yaml.safe_dump(kustomization), encoding="utf-8")
    done = subprocess.run(
        [tool("kubectl"), "kustomize", str(directory)], capture_output=True, text=True, check=False, timeout=60
    )
    assert 0 == done.returncode, done.stderr
    return tuple(yaml.safe_load_all(done.stdout))


def documented(word: str) -> Mapping[str, Any]:
    """Return the part of a kustomization in deploy/README.md that has a word."""
    (part,) = [
        text
        for text in re.findall(
            r"```yaml\n(# kustomization.yaml, in addition\n.*?)```",
            (REPOSITORY / "deploy" / "README.md").read_text(encoding="utf-8"),
            re.DOTALL,
        )
        if word in text
    ]
    found: Mapping[str, Any] = yaml.safe_load(part)
    return found


def workloads(manifests: tuple[Manifest, ...]) -> list[Manifest]:
    """Those that run pods."""
    return [m for m in manifests if m["kind"] in {"Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob"}]


def template(workload: Manifest) -> Mapping[str, Any]:
    """The template of a workload's pods."""
    found: Mapping[str, Any] = workload["spec"].get("jobTemplate", workload)["spec"]["template"]
    return found


def pod(workload: Manifest) -> Mapping[str, Any]:
    """The specification of a workload's pods."""
    spec: Mapping[str, Any] = template(workload)["spec"]
    return spec


def containers(workload: Manifest) -> list[Mapping[str, Any]]:
    """All containers of a workload's pods, those that come first included."""
    return [*pod(workload).get("initContainers", []), *pod(workload)["containers"]]


def find(manifests: tuple[Manifest, ...], kind: str, name: str) -> Manifest:
    """The one manifest of this kind and name."""
    (found,) = [m for m in manifests if m["kind"] == kind and m["metadata"]["name"] == name]
    return found


def container(manifests: tuple[Manifest, ...], name: str) -> Mapping[str, Any]:
    """The container that gives a deployment its name."""
    found: Mapping[str, Any]
    (found,) = [c for c in pod(find(manifests, "Deployment", name))["containers"] if c["name"] == name]
    return found
