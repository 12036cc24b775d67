"""TensorFlow Serving's `models.config`: read and changed without losing its other entries, and stored.

It is a file that model servers poll, or a ConfigMap that is mounted in their pods. A cluster has two: one is delivered
and names the models, the other has what rollouts have changed, which no `kubectl apply` sets back.
"""

import http.client
import json
import os
import ssl
import subprocess
from collections.abc import Sequence
from contextlib import closing
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.parse import quote

from google.protobuf import text_format

from microtome.commands.rollout.errors import CannotBegin, RolloutError
from microtome.tfserving.v1.model_server_config_pb2 import ModelConfig, ModelServerConfig, ServableVersionPolicy

_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""What Kubernetes gives a pod that may ask its API."""


class ConfiguredModel(NamedTuple):
    """The entry of one model.

    Attributes:
        versions: the specific versions; empty for another policy (the newest, or all).
        labels: version numbers by label.
    """

    versions: tuple[int, ...]
    labels: dict[str, int]


def configured(text: str, model: str) -> ConfiguredModel:
    """Return the entry of a model.

    Raises:
        CannotBegin: the text is not a ModelServerConfig, or has no such model.
    """
    entry = _entry(_parsed(text), model)
    return ConfiguredModel(tuple(entry.model_version_policy.specific.versions), dict(entry.version_labels))


def changed(text: str, model: str, versions: Sequence[int], labels: dict[str, int]) -> str:
    """Return the text with a model's versions and labels replaced; comments at its start are kept.

    Labels of a version that is not kept are dropped, since a server refuses them.

    Raises:
        CannotBegin: as in `configured`.
    """
    config = _parsed(text)
    entry = _entry(config, model)
    policy = ServableVersionPolicy(specific=ServableVersionPolicy.Specific(versions=sorted(versions)))
    entry.model_version_policy.CopyFrom(policy)
    kept = {**entry.version_labels, **labels}
    entry.version_labels.clear()
    entry.version_labels.update({label: version for label, version in sorted(kept.items()) if version in versions})
    return _heading(text) + text_format.MessageToString(config)


def with_versions(text: str, earlier: str) -> str:
    """Return the text with the versions and labels that an earlier text gives its models by a rollout.

    Models, their paths and the versions of those that no rollout has changed are the text's own.

    Raises:
        CannotBegin: one of the texts is not a ModelServerConfig.
    """
    config = _parsed(text)
    rolled = {entry.name: entry for entry in _parsed(earlier).model_config_list.config if entry.version_labels}
    for entry in config.model_config_list.config:
        if entry.name in rolled:
            entry.model_version_policy.CopyFrom(rolled[entry.name].model_version_policy)
            entry.version_labels.clear()
            entry.version_labels.update(rolled[entry.name].version_labels)
    return _heading(text) + text_format.MessageToString(config)


def _parsed(text: str) -> ModelServerConfig:
    try:
        return text_format.Parse(text, ModelServerConfig())
    except text_format.ParseError as error:
        raise CannotBegin(f"Expected a ModelServerConfig in protobuf's text format. {error}") from None


def _entry(config: ModelServerConfig, model: str) -> ModelConfig:
    for entry in config.model_config_list.config:
        if entry.name == model:
            return entry
    listed = ", ".join(entry.name for entry in config.model_config_list.config) or "none"
    raise CannotBegin(f"Expected a model that the configuration names: {listed}. Received: {model!r}.")


def _heading(text: str) -> str:
    lines = text.splitlines(keepends=True)
    return "".join(takewhile(lambda line: not line.strip() or line.lstrip().startswith("#"), lines))


class Store(Protocol):
    """Stores the text; a server reads the old text or the new one, never a part."""

    def read(self) -> str:
        """Return the text.

        Raises:
            CannotBegin: it does not exist or cannot be read.
        """
        ...

    def write(self, text: str) -> None:
        """Replace the text.

        Raises:
            RolloutError: it cannot be written, or has been changed since it was read.
        """
        ...


class FileStore:
    """A file, replaced by a rename."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._own: set[str] = set()
        """What the file may have: the text that was read or written, and one that is being written."""

    def read(self) -> str:
        """Return the file's text; see the protocol."""
        try:
            text = self._path.read_text(encoding="utf-8")
        except OSError as error:
            raise CannotBegin(f"Expected the model server's models.config at {self._path}: {error.strerror}.") from None
        self._own = {text}
        return text

    def write(self, text: str) -> None:
        """Replace the file; see the protocol."""
        if self._path.read_text(encoding="utf-8") not in self._own:
            raise RolloutError(f"{self._path} was changed by another program meanwhile. Check it, then start again.")
        # In the same folder, since a rename needs one file system; with the same mode, so that the server can read it.
        draft = self._path.with_name(f".{self._path.name}.rollout")
        try:
            with draft.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fchmod(file.fileno(), self._path.stat().st_mode & 0o777)
                os.fsync(file.fileno())
            # Before the rename: an interruption right after it must still be able to restore the old text.
            self._own.add(text)
            draft.rename(self._path)
        except OSError as error:
            draft.unlink(missing_ok=True)
            raise RolloutError(f"Expected to be allowed to replace {self._path}: {error.strerror}.") from None
        self._own = {text}


class ConfigMapStore:
    """A key of a Kubernetes ConfigMap: by the service account of the pod that this runs in, elsewhere through kubectl.

    Args:
        name: of the ConfigMap.
        key: of its data.
        namespace: of the ConfigMap; None for the pod's, or kubectl's own.
        delivered: the file with the models, for a ConfigMap that only has what rollouts have changed. None where the
            ConfigMap itself has them.
    """

    def __init__(self, name: str, key: str, namespace: str | None, delivered: Path | None = None) -> None:
        self._name = name
        self._key = key
        self._namespace = namespace
        self._delivered = delivered
        self._found: dict[str, Any] = {}

    def read(self) -> str:
        """Return the key's text, with delivered models the versions in it; see the protocol."""
        self._found = self._ask(None, CannotBegin)
        data: dict[str, str] = self._found.get("data") or {}
        if self._delivered is not None:
            return with_versions(FileStore(self._delivered).read(), data.get(self._key, ""))
        if self._key not in data:
            held = ", ".join(data) or "none"
            raise CannotBegin(f"Expected the ConfigMap {self._name!r} to have the key {self._key!r}; it has: {held}.")
        return data[self._key]

    def write(self, text: str) -> None:
        """Replace the key; see the protocol. The resource's version goes along, so a change since then is refused."""
        data = {**(self._found.get("data") or {}), self._key: text}
        if self._delivered is not None and text == with_versions(FileStore(self._delivered).read(), ""):
            # Nothing is left of any rollout: what is delivered holds again, also what will be.
            del data[self._key]
        self._found = self._ask(json.dumps({**self._found, "data": data}), RolloutError)

    def _ask(self, given: str | None, wrong: type[RolloutError]) -> dict[str, Any]:
        """Return the ConfigMap, replaced by the one that is given as JSON."""
        answer = self._by_api(given, wrong) if (_ACCOUNT / "token").is_file() else self._by_kubectl(given, wrong)
        found: dict[str, Any] = json.loads(answer)
        return found

    def _by_api(self, given: str | None, wrong: type[RolloutError]) -> bytes:
        namespace = self._namespace or (_ACCOUNT / "namespace").read_text(encoding="utf-8").strip()
        # Read for each call: the kubelet renews it.
        token = (_ACCOUNT / "token").read_text(encoding="utf-8").strip()
        host, port = (os.environ.get(f"KUBERNETES_SERVICE_{name}", "") for name in ("HOST", "PORT"))
        path = f"/api/v1/namespaces/{quote(namespace)}/configmaps/{quote(self._name)}"
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        try:
            context = ssl.create_default_context(cafile=str(_ACCOUNT / "ca.crt"))
            connection = http.client.HTTPSConnection(host, int(port or 443), timeout=60, context=context)
            with closing(connection):
                connection.request("GET" if given is None else "PUT", path, given, headers)
                answer = connection.getresponse()
                body = answer.read()
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise wrong(f"Expected the Kubernetes API at {host}:{port} to answer: {error}.") from None
        if answer.status != http.client.OK:
            raise wrong(f"The Kubernetes API answered {answer.status}: {_told(body)}")
        return body

    def _by_kubectl(self, given: str | None, wrong: type[RolloutError]) -> str:
        # A document comes from the server, so it is not validated again.
        words = ["get", "configmap", self._name] if given is None else ["replace", "--filename=-", "--validate=ignore"]
        chosen = ["--namespace", self._namespace] if self._namespace else []
        try:
            done = subprocess.run(  # noqa: S603
                ["kubectl", *chosen, *words, "--output=json"],  # noqa: S607
                input=given,
                capture_output=True,
                text=True,
                check=False,
                timeout=60,
            )
        except FileNotFoundError:
            raise CannotBegin("Expected kubectl on the PATH, which --configmap needs; there is none.") from None
        except subprocess.TimeoutExpired:
            raise wrong("kubectl did not answer within 60 s. Is the cluster reachable?") from None
        if done.returncode:
            raise wrong(f"kubectl {words[0]} failed: {done.stderr.strip()}")
        return done.stdout


def _told(body: bytes) -> str:
    try:
        return str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        return body[:200].decode(errors="replace")
