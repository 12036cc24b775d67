"""`microtome rollout --configmap`: the real kubectl against an API server that keeps one ConfigMap."""

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from microtome.commands.rollout.command import build_parser
from microtome.commands.rollout.configuration import ConfigMapStore
from microtome.commands.rollout.errors import CannotBegin, RolloutError
from tests.deploy.manifests import OVERLAYS, find, render
from tests.deploy.tools import tool

PATH = "/api/v1/namespaces/microtome/configmaps/models-config"


class ApiServer(ThreadingHTTPServer):
    """As much of the Kubernetes API as kubectl needs to get and replace a ConfigMap, conflicts included."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        metadata = {"name": "models-config", "namespace": "microtome", "resourceVersion": "1"}
        data = {"models.config": "old", "batching.config": "b"}
        self.object: dict[str, Any] = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


class Handler(BaseHTTPRequestHandler):
    """Answers kubectl."""

    protocol_version = "HTTP/1.1"
    server: ApiServer

    def do_GET(self) -> None:
        """Discovery and the ConfigMap."""
        path = self.path.partition("?")[0]
        resource = {"name": "configmaps", "namespaced": True, "kind": "ConfigMap", "verbs": ["get", "update"]}
        known: dict[str, dict[str, Any]] = {
            "/api": {"kind": "APIVersions", "versions": ["v1"]},
            "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": []},
            "/api/v1": {"kind": "APIResourceList", "groupVersion": "v1", "resources": [resource]},
            PATH: self.server.object,
        }
        if path in known:
            self._answer(200, known[path])
        else:
            self._answer(404, _status(404, "NotFound", f"{path} not found"))

    def do_PUT(self) -> None:
        """Replace the ConfigMap, unless it has been replaced since it was read."""
        given = json.loads(self.rfile.read(int(self.headers["content-length"])))
        held = self.server.object["metadata"]["resourceVersion"]
        if given["metadata"]["resourceVersion"] != held:
            self._answer(409, _status(409, "Conflict", "the object has been modified"))
            return
        given["metadata"]["resourceVersion"] = str(int(held) + 1)
        self.server.object = given
        self._answer(200, given)

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        encoded = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(encoded)))
        self.end_headers()
        self.wfile.write(encoded)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002, the base class's name
        """Say nothing."""


def _status(code: int, reason: str, message: str) -> dict[str, Any]:
    body = {"status": "Failure", "code": code, "reason": reason, "message": message}
    return {"kind": "Status", "apiVersion": "v1", **body}


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    """The API server, and a kubectl on the PATH that is configured for it."""
    with ApiServer() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": ""}}],
            "current-context": "x",
        }
        (tmp_path / "config").write_text(json.dumps(config))
        (tmp_path / "kubectl").symlink_to(tool("kubectl"))
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
        yield server
        server.shutdown()


def test_the_key_is_replaced_and_the_rest_stays(api: ApiServer) -> None:
    """Twice, as a rollout does."""
    store = ConfigMapStore("models-config", "models.config", "microtome")
    assert store.read() == "old"
    store.write("new")
    store.write("newer")
    assert api.object["data"] == {"models.config": "newer", "batching.config": "b"}


def test_a_change_by_somebody_else_is_not_overwritten(api: ApiServer) -> None:
    """Kubernetes refuses what was read before the change."""
    store = ConfigMapStore("models-config", "models.config", "microtome")
    store.read()
    api.object["metadata"]["resourceVersion"] = "7"
    with pytest.raises(RolloutError, match="modified"):
        store.write("new")
    assert api.object["data"]["models.config"] == "old"


@pytest.mark.parametrize(
    ("name", "key", "words"), [("absent", "k", "not found"), ("models-config", "k", "models.config")]
)
def test_what_is_not_there_is_named(api: ApiServer, name: str, key: str, words: str) -> None:
    """The ConfigMap, or its key."""
    with pytest.raises(CannotBegin, match=words):
        ConfigMapStore(name, key, "microtome").read()


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_name_that_people_are_told_is_the_manifests(overlay: str, repository: Path) -> None:
    """In the command's own help and in deploy/README.md: a ConfigMap that holds the models and is named as it is."""
    told = build_parser().format_help() + (repository / "deploy" / "README.md").read_text(encoding="utf-8")
    names = set(re.findall(r"rollout \S+ \d .*--configmap (\S+)", told))
    assert {"models-config"} == names
    assert "models.config" in find(render((overlay,)), "ConfigMap", *names)["data"]
