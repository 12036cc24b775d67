"""`microtome rollout --configmap`, in a pod and by kubectl, against an API server that keeps one ConfigMap.

Its Job is made, and the manifests are applied, by the real kubectl.
"""

import copy
import json
import re
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from microtome.commands.rollout import configuration
from microtome.commands.rollout.command import build_parser
from microtome.commands.rollout.configuration import ConfigMapStore, configured
from microtome.commands.rollout.errors import CannotBegin, RolloutError
from tests.certificates import make_certificates
from tests.deploy.manifests import OVERLAYS, Manifest, find, pod, render, template
from tests.deploy.tools import tool
from tests.exported_models import REPOSITORY

PATHS = "/api/v1/namespaces/microtome/configmaps/"
CRONJOB = "/apis/batch/v1/namespaces/microtome/cronjobs/rollout"
JOBS = "/apis/batch/v1/namespaces/microtome/jobs"
TOKEN = "the token of a service account"
MANIFESTS = render(("production", "rollout"))


class ApiServer(ThreadingHTTPServer):
    """As much of the Kubernetes API as a rollout and kubectl need: one ConfigMap, conflicts included, and Jobs."""

    daemon_threads = True

    def __init__(self, name: str = "models-config", data: dict[str, str] | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        metadata = {"name": name, "namespace": "microtome", "resourceVersion": "1"}
        self.object: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": metadata,
            "data": data or {},
        }
        self.token: str | None = None
        self.patches: list[dict[str, Any]] = []
        self.jobs: list[dict[str, Any]] = []


class Handler(BaseHTTPRequestHandler):
    """Answers kubectl, and pods."""

    protocol_version = "HTTP/1.1"
    server: ApiServer

    def do_GET(self) -> None:
        """Discovery, the ConfigMap and the template of Jobs."""
        path = self.path.partition("?")[0]
        verbs = ["create", "get", "patch", "update"]
        configmaps = {"name": "configmaps", "namespaced": True, "kind": "ConfigMap", "verbs": verbs}
        batch = [
            {"name": f"{kind.lower()}s", "singularName": kind.lower(), "namespaced": True, "kind": kind, "verbs": verbs}
            for kind in ("CronJob", "Job")
        ]
        version = {"groupVersion": "batch/v1", "version": "v1"}
        groups = [{"name": "batch", "versions": [version], "preferredVersion": version}]
        known: dict[str, dict[str, Any]] = {
            "/api": {"kind": "APIVersions", "versions": ["v1"]},
            "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups},
            "/api/v1": {"kind": "APIResourceList", "groupVersion": "v1", "resources": [configmaps]},
            "/apis/batch/v1": {"kind": "APIResourceList", "groupVersion": "batch/v1", "resources": batch},
            PATHS + self.server.object["metadata"]["name"]: self.server.object,
            CRONJOB: dict(find(MANIFESTS, "CronJob", "rollout")),
        }
        if self.server.token and self.headers.get("Authorization") != f"Bearer {self.server.token}":
            self._answer(401, _status(401, "Unauthorized", "Unauthorized"))
        elif path in known:
            self._answer(200, known[path])
        else:
            self._answer(404, _status(404, "NotFound", f"{path} not found"))

    def do_PUT(self) -> None:
        """Replace the ConfigMap, unless it has been replaced since it was read."""
        given = self._body()
        held = self.server.object["metadata"]["resourceVersion"]
        if given["metadata"]["resourceVersion"] != held:
            self._answer(409, _status(409, "Conflict", "the object has been modified"))
            return
        given["metadata"]["resourceVersion"] = str(int(held) + 1)
        self.server.object = given
        self._answer(200, given)

    def do_PATCH(self) -> None:
        """Change the ConfigMap's annotations and data, as `kubectl apply` wants it."""
        patch = self._body()
        self.server.patches.append(patch)
        self.server.object.setdefault("data", {}).update(patch.get("data", {}))
        self.server.object["metadata"].setdefault("annotations", {}).update(
            patch.get("metadata", {}).get("annotations", {})
        )
        self._answer(200, self.server.object)

    def do_POST(self) -> None:
        """Keep a Job."""
        assert self.path.partition("?")[0] == JOBS
        self.server.jobs.append(self._body())
        self._answer(201, self.server.jobs[-1])

    def _body(self) -> dict[str, Any]:
        given: dict[str, Any] = json.loads(self.rfile.read(int(self.headers["content-length"])))
        return given

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


def served(server: ApiServer, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the API server, and put a kubectl on the PATH that is configured for it."""
    threading.Thread(target=server.serve_forever, daemon=True).start()
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": ""}}],
        "current-context": "x",
    }
    (directory / "config").write_text(json.dumps(config))
    (directory / "kubectl").symlink_to(tool("kubectl"))
    monkeypatch.setenv("KUBECONFIG", str(directory / "config"))
    monkeypatch.setenv("HOME", str(directory))
    monkeypatch.setenv("PATH", str(directory), prepend=":")


def in_a_pod(server: ApiServer, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the API server speak TLS and want a token, and give this process what Kubernetes gives a pod."""
    make_certificates(directory)
    (directory / "ca.pem").rename(directory / "ca.crt")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(directory / "server.pem", directory / "server.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.token = TOKEN
    (directory / "token").write_text(f"{TOKEN}\n")
    (directory / "namespace").write_text("microtome")
    monkeypatch.setattr(configuration, "_ACCOUNT", directory)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(server.server_port))
    threading.Thread(target=server.serve_forever, daemon=True).start()


@pytest.fixture(params=[served, in_a_pod], ids=["kubectl", "pod"])
def api(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    """The API server, asked through kubectl and directly."""
    started: Callable[[ApiServer, Path, pytest.MonkeyPatch], None] = request.param
    with ApiServer(data={"models.config": "old", "batching.config": "b"}) as server:
        started(server, tmp_path, monkeypatch)
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


def test_a_pod_that_may_not_ask_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The API's own words; and an address that does not answer is a sentence too."""
    with ApiServer() as server:
        in_a_pod(server, tmp_path, monkeypatch)
        (tmp_path / "token").write_text("another")
        with pytest.raises(CannotBegin, match="answered 401: Unauthorized"):
            ConfigMapStore("models-config", "models.config", None).read()
        server.shutdown()
    with pytest.raises(CannotBegin, match="Expected the Kubernetes API at"):
        ConfigMapStore("models-config", "models.config", None).read()


def entry(name: str, *words: str) -> str:
    """Return a model's entry."""
    return f'config {{ name: "{name}" base_path: "/models/{name}" model_platform: "tensorflow" {" ".join(words)} }}'


def models(*entries: str) -> str:
    """Return a models.config."""
    return f"# What is served.\nmodel_config_list {{ {' '.join(entries)} }}\n"


def test_what_is_delivered_names_models_and_what_rollouts_changed_their_versions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that is added comes with the next rollout; where nothing is left of one, nothing is hidden."""
    delivered = tmp_path / "models.config"
    latest = "model_version_policy { latest { num_versions: 2 } }"
    delivered.write_text(models(entry("a", latest), entry("b", latest)))
    with ApiServer("models-rollout") as server:
        in_a_pod(server, tmp_path, monkeypatch)
        store = ConfigMapStore("models-rollout", "models.config", None, delivered)
        before = store.read()
        store.write(configuration.changed(before, "a", [3, 4], {"stable": 3}))
        assert ((3, 4), {"stable": 3}) == configured(store.read(), "a")
        assert ((), {}) == configured(store.read(), "b")
        delivered.write_text(models(entry("c"), entry("a", "model_version_policy { specific { versions: 9 } }")))
        assert ((3, 4), {"stable": 3}) == configured(store.read(), "a")
        assert ((), {}) == configured(store.read(), "c")
        with pytest.raises(CannotBegin, match="c, a"):
            configured(store.read(), "b")
        assert "models.config" in server.object["data"]
        store.write(configuration.with_versions(delivered.read_text(), ""))
        assert {} == server.object["data"]
        server.shutdown()


def test_an_apply_leaves_what_a_rollout_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """During a rollout and after it; the same apply of a manifest with the key in it would set it back."""
    manifest = find(MANIFESTS, "ConfigMap", "models-rollout")
    with ApiServer("models-rollout", {"models.config": "of a rollout"}) as server:
        served(server, tmp_path, monkeypatch)
        applied = json.dumps(manifest, separators=(",", ":")) + "\n"
        server.object["metadata"]["annotations"] = {"kubectl.kubernetes.io/last-applied-configuration": applied}
        apply(manifest)
        apply({**manifest, "metadata": {**manifest["metadata"], "labels": {"of": "another release"}}})
        assert {"models.config": "of a rollout"} == server.object["data"]
        assert [] == [patch for patch in server.patches if "data" in patch]
        apply({**manifest, "data": {"models.config": "of the folder"}})
        assert {"models.config": "of the folder"} == server.object["data"]
        server.shutdown()


def apply(manifest: Manifest) -> None:
    """Run `kubectl apply`."""
    words = ["kubectl", "apply", "--validate=false", "--filename=-"]
    done = subprocess.run(words, input=json.dumps(manifest), capture_output=True, text=True, check=False, timeout=60)
    assert 0 == done.returncode, done.stderr


def test_the_documented_commands_make_a_job_of_the_template(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For one model and version: the Job's words are a command line of `microtome rollout`, with all that it needs."""
    readme = (REPOSITORY / "deploy" / "README.md").read_text(encoding="utf-8")
    (block,) = [text for text in re.findall(r"```sh\n(.*?)```", readme, re.DOTALL) if "cronjob/rollout" in text]
    # The server has no schema to validate by, and no logs.
    commands = block.replace("create --filename=-", "create --validate=false --filename=-").partition(
        "kubectl -n microtome logs"
    )[0]
    with ApiServer() as server:
        served(server, tmp_path, monkeypatch)
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", commands], capture_output=True, text=True, check=False)
        assert 0 == done.returncode, done.stderr
        server.shutdown()
        (job,) = server.jobs
    wanted = copy.deepcopy(template(find(MANIFESTS, "CronJob", "rollout")))
    (box,) = job["spec"]["template"]["spec"]["containers"]
    variables = {one["name"]: one.get("value") for one in box["env"]}
    assert ("lite0", "1") == (variables["MODEL"], variables["VERSION"])
    assert wanted["spec"]["serviceAccountName"] == job["spec"]["template"]["spec"]["serviceAccountName"]
    assert wanted["metadata"]["labels"].items() <= job["spec"]["template"]["metadata"]["labels"].items()
    assert ["python", "-m", "microtome", "rollout"] == box["command"]
    words = [re.sub(r"\$\((\w+)\)", lambda name: str(variables[name[1]]), word) for word in box["args"]]
    told = build_parser().parse_args(words)
    assert ("lite0", 1, "models-rollout") == (told.model, told.version, told.configmap)
    (mounted,) = [one for one in box["volumeMounts"] if str(told.config).startswith(one["mountPath"])]
    (volume,) = [one for one in job["spec"]["template"]["spec"]["volumes"] if one["name"] == mounted["name"]]
    assert told.config.name in find(MANIFESTS, "ConfigMap", volume["configMap"]["name"])["data"]
    (gateway,) = told.gateway
    opened = {
        port["name"]: port["containerPort"]
        for port in pod(find(MANIFESTS, "Deployment", "gateway"))["containers"][0]["ports"]
    }
    assert gateway == f"http://gateway-grpc:{opened['http']}"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_names_that_people_are_told_are_the_manifests(overlay: str) -> None:
    """In the command's own help: a ConfigMap that is there, beside the one that has the models."""
    names = set(re.findall(r"rollout \S+ \d .*--configmap (\S+)", build_parser().format_help()))
    assert {"models-rollout"} == names
    assert "data" not in find(render((overlay,)), "ConfigMap", *names)
    assert "models.config" in find(render((overlay,)), "ConfigMap", "models-config")["data"]
