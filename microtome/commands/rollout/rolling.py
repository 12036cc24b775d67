"""The three steps of a rollout: load the new version beside the old, move the label, unload the old one.

TensorFlow Serving needs this order: it refuses a label of a version that is not loaded, and it answers for a version
until that is unloaded. Gateways that follow the label (MICROTOME_VERSION_LABEL) switch in the second step.
"""

import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from microtome.commands.rollout.configuration import Store, changed, configured
from microtome.commands.rollout.errors import CannotBegin, TimedOut, VersionFailed
from microtome.commands.rollout.gateways import Gateway
from microtome.commands.rollout.servers import Server, Unreachable
from microtome.errors import shown

POLL_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Rolling:
    """A rollout of one model.

    Attributes:
        store: of the servers' configuration.
        servers: all that serve the model.
        gateways: those that try the new version and are polled until they use it; may be empty.
        options: of the command line: `label`, which gateways follow; `keep`, whether the old version stays loaded;
            `timeout`, the most seconds of a step; `settle`, the seconds for unnamed gateways to follow the label.
    """

    store: Store
    servers: Sequence[Server]
    gateways: Sequence[Gateway]
    model: str
    options: Namespace

    def to(self, version: int) -> None:
        """Take a version into use.

        Raises:
            CannotBegin: nothing has been changed.
            VersionFailed: the version cannot be used; the old one is in use as before.
            TimedOut: see its message.
        """
        before = self.store.read()
        old = self._in_use(before)
        if old == version:
            say(f"{self.model} {version} is in use already.")
            self._drop(version)
            return
        self._load(before, old, version)
        self._switch(old, version)
        if self.options.keep:
            say(f"{self.model} {old} stays loaded; microtome rollout {self.model} {old} goes back at once.")
        else:
            self._drop(version)
        say(f"{self.model} {version} is in use. Back: the same command with {old} in place of {version}.")

    def _in_use(self, text: str) -> int:
        """Return the label's version, or, before the first rollout, the newest version that all servers have."""
        labelled = configured(text, self.model).labels.get(self.options.label)
        if labelled is not None:
            return labelled
        try:
            available = [_available(server, self.model) for server in self.servers]
        except Unreachable as error:
            raise CannotBegin(f"A model server does not answer: {error}") from None
        everywhere = set.intersection(*available)
        if not everywhere:
            raise CannotBegin(f"Expected a version of {self.model!r} that every model server has; there is none.")
        return max(everywhere)

    def _load(self, before: str, old: int, new: int) -> None:
        both = changed(before, self.model, [old, new], {self.options.label: old})
        try:
            self.store.write(both)
            self._until(f"loading {self.model} {new} beside {old}", self._unloaded, new)
            self._until(f"trying {self.model} {new}", self._untried, new)
        except BaseException as error:
            # Also when interrupted: the label has not moved yet, so the old configuration is restored.
            self.store.write(before)
            if isinstance(error, TimedOut):
                raise VersionFailed(f"{error} The configuration is as it was before, {old} is in use.") from None
            raise

    def _unloaded(self, version: int) -> Iterator[str]:
        for server in self.servers:
            state = server.states(self.model).get(version)
            if state is not None and state.error:
                raise VersionFailed(
                    f"{server.address} cannot load {self.model} {version}: {state.error} "
                    "The configuration is as it was before."
                )
            if state is None or not state.available:
                yield f"{server.address}: {state.state if state else 'not seen yet; is the directory there?'}"

    def _untried(self, version: int) -> Iterator[str]:
        for server in self.servers:
            if not server.answers(self.model, version):
                raise VersionFailed(f"{server.address} has loaded {self.model} {version}, which does not answer.")
        yield from filter(None, (gateway.trial(self.model, version) for gateway in self.gateways))

    def _switch(self, old: int, new: int) -> None:
        self.store.write(changed(self.store.read(), self.model, [old, new], {self.options.label: new}))
        self._until(f"moving the label {self.options.label!r} to {new}", self._unlabelled, new)
        if self.gateways:
            self._until(f"gateways taking {new} into use", self._unfollowed, new)
        else:
            say(f"No gateway was named: giving them {self.options.settle:g} s to follow.")
            time.sleep(self.options.settle)

    def _unlabelled(self, version: int) -> Iterator[str]:
        for server in self.servers:
            found = server.version_in_use(self.model, self.options.label)
            if found != version:
                yield f"{server.address}: the label stands for {found or 'nothing'}"

    def _unfollowed(self, version: int) -> Iterator[str]:
        for gateway in self.gateways:
            found, why = gateway.version(self.model)
            if found != version:
                setting = f"MICROTOME_VERSION_LABEL={self.options.label}"
                yield why or f"{gateway.address} uses {found}; does it follow {setting}?"

    def _drop(self, version: int) -> None:
        """Serve only this version from now on, whatever other versions are on disk."""
        text = self.store.read()
        alone = changed(text, self.model, [version], {self.options.label: version})
        if configured(text, self.model) != configured(alone, self.model):
            self.store.write(alone)
        self._until(f"unloading what is not {version}", self._undropped, version)

    def _undropped(self, version: int) -> Iterator[str]:
        for server in self.servers:
            available = _available(server, self.model)
            if available != {version}:
                yield f"{server.address} has {', '.join(map(str, sorted(available)))}"

    def _until(self, what: str, problems: Callable[[int], Iterator[str]], version: int) -> None:
        """Wait until a step has no problem left with a version; a server that does not answer is one.

        Raises:
            TimedOut: there still is one.
        """
        begin = time.monotonic()
        shown = None
        while (left := _first(problems, version)) is not None:
            if left != shown:
                say(f"{what}: {left}")
                shown = left
            if time.monotonic() - begin > self.options.timeout:
                raise TimedOut(f"Not within {self.options.timeout:g} s: {what}. {left}.")
            time.sleep(POLL_SECONDS)
        say(f"{what}: done ({time.monotonic() - begin:.1f} s)")


def say(text: str) -> None:
    """Tell the user, also where the output is a file that another program reads."""
    print(shown(text), flush=True)  # noqa: T201, a command


def status_lines(store: Store, servers: Sequence[Server], gateways: Sequence[Gateway], model: str) -> Iterator[str]:
    """Yield a line for the configuration, one for each server and one for each gateway.

    Raises:
        CannotBegin: the configuration cannot be read.
    """
    entry = configured(store.read(), model)
    labels = ", ".join(f"{label} is {version}" for label, version in sorted(entry.labels.items()))
    yield f"configuration  {', '.join(map(str, entry.versions)) or 'by the default policy'}; {labels or 'no labels'}"
    for server in servers:
        try:
            states = server.states(model)
        except Unreachable as error:
            yield f"model server   {error}"
            continue
        shown = (f"{version} {state.state} {state.error}".rstrip() for version, state in sorted(states.items()))
        yield f"model server   {server.address}  {', '.join(shown) or 'no version'}"
    for gateway in gateways:
        version, why = gateway.version(model)
        yield f"gateway        {gateway.address}  {f'uses {version}' if version else 'uses none'} {why}".rstrip()


def _available(server: Server, model: str) -> set[int]:
    return {version for version, state in server.states(model).items() if state.available}


def _first(problems: Callable[[int], Iterator[str]], version: int) -> str | None:
    try:
        return next(problems(version), None)
    except Unreachable as error:
        return str(error)
