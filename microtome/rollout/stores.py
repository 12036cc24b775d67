"""Where `models.config` is kept: a file that model servers poll, or a ConfigMap that they have mounted."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any, Protocol

from microtome.rollout.errors import CannotBegin, RolloutError


class Store(Protocol):
    """Holds the configuration; a server sees the old text or the new one, never a part."""

    def read(self) -> str:
        """Return the text.

        Raises:
            CannotBegin: it is not there or cannot be read.
        """
        ...

    def write(self, text: str) -> None:
        """Replace the text.

        Raises:
            RolloutError: it cannot be written, or somebody else has changed it since it was read.
        """
        ...


class FileStore:
    """A file, replaced by a rename."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read: str | None = None

    def read(self) -> str:
        """Return the file's text; see the protocol."""
        try:
            self._read = self._path.read_text(encoding="utf-8")
        except OSError as error:
            raise CannotBegin(f"Expected the model server's models.config at {self._path}: {error.strerror}.") from None
        return self._read

    def write(self, text: str) -> None:
        """Replace the file; see the protocol."""
        if self._path.read_text(encoding="utf-8") != self._read:
            raise RolloutError(f"{self._path} was changed by somebody else meanwhile. Look at it, then start again.")
        # Beside it, with its mode: a rename needs the same file system, and the server must be able to read it.
        draft = self._path.with_name(f".{self._path.name}.rollout")
        try:
            with draft.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fchmod(file.fileno(), self._path.stat().st_mode & 0o777)
                os.fsync(file.fileno())
            draft.rename(self._path)
        except OSError as error:
            draft.unlink(missing_ok=True)
            raise RolloutError(f"Expected to be allowed to replace {self._path}: {error.strerror}.") from None
        self._read = text


class ConfigMapStore:
    """A key of a Kubernetes ConfigMap, through kubectl; whoever may do that is decided by the cluster."""

    def __init__(self, name: str, key: str, namespace: str | None) -> None:
        self._name = name
        self._key = key
        self._kubectl = ["kubectl", *(["--namespace", namespace] if namespace else [])]
        self._found: dict[str, Any] = {}

    def read(self) -> str:
        """Return the key's text; see the protocol."""
        self._found = json.loads(self._run("get", "configmap", self._name, "--output=json"))
        data: dict[str, str] = self._found.get("data", {})
        if self._key not in data:
            held = ", ".join(data) or "none"
            raise CannotBegin(f"Expected the ConfigMap {self._name!r} to have the key {self._key!r}; it has: {held}.")
        return data[self._key]

    def write(self, text: str) -> None:
        """Replace the key; see the protocol. What was read goes along, so that a change since then is refused."""
        self._found["data"][self._key] = text
        # What came from the server a moment ago needs no schema from it.
        words = ("replace", "--filename=-", "--output=json", "--validate=ignore")
        self._found = json.loads(self._run(*words, given=json.dumps(self._found), wrong=RolloutError))

    def _run(self, *words: str, given: str | None = None, wrong: type[RolloutError] = CannotBegin) -> str:
        try:
            done = subprocess.run(  # noqa: S603, our own words
                [*self._kubectl, *words], input=given, capture_output=True, text=True, check=False, timeout=60
            )
        except FileNotFoundError:
            raise CannotBegin("Expected kubectl on the PATH, which --configmap needs; there is none.") from None
        except subprocess.TimeoutExpired:
            raise wrong("kubectl did not answer within 60 s. Is the cluster reachable?") from None
        if done.returncode:
            raise wrong(f"kubectl {words[0]} failed: {done.stderr.strip()}")
        return done.stdout
