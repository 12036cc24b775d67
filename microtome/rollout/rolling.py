"""The three steps of a rollout: the new version beside the old, the label to the new one, the old one away.

TensorFlow Serving wants just this order: it refuses a label on a version that is not loaded, and it answers for a
version until it is told to unload it. Gateways that follow the label (MICROTOME_VERSION_LABEL) change in the second
step.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from microtome.rollout.configuration import changed, wanted
from microtome.rollout.errors import CannotBegin, TimedOut, VersionFailed
from microtome.rollout.gateways import Gateway
from microtome.rollout.servers import Server, Unreachable
from microtome.rollout.stores import Store

Say = Callable[[str], None]
Problem = str | None
"""What is still to come, for people; None when nothing is."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds: `step` is the most that a step may take, `settle` how long gateways unasked are given to follow."""

    step: float = 600.0
    settle: float = 10.0
    poll: float = 0.5


@dataclass(frozen=True, slots=True)
class Rolling:
    """One model's change of version.

    Attributes:
        store: holds the servers' configuration.
        servers: all that serve the model.
        gateways: that are asked to try the new version and whether they use it; none is allowed.
        label: what gateways follow.
        keep: whether the old version stays loaded, so that going back takes no loading.
    """

    store: Store
    servers: Sequence[Server]
    gateways: Sequence[Gateway]
    model: str
    label: str
    say: Say
    timing: Timing
    keep: bool = False

    def to(self, version: int) -> None:
        """Take a version into use.

        Raises:
            CannotBegin: nothing has been changed.
            VersionFailed: the version cannot be used; everything is as it was.
            TimedOut: see its message.
        """
        before = self.store.read()
        old = self._in_use(before)
        if old == version:
            self.say(f"{self.model} {version} is in use already.")
            self._drop(version)
            return
        self._load(before, old, version)
        self._switch(old, version)
        if self.keep:
            self.say(f"{self.model} {old} stays loaded; microtome rollout {self.model} {old} goes back at once.")
        else:
            self._drop(version)
        self.say(f"{self.model} {version} is in use. Back: the same command with {old} in place of {version}.")

    def _in_use(self, text: str) -> int:
        """Return the version that the label stands for, or, before the first rollout, the newest that all have."""
        labelled = wanted(text, self.model).labels.get(self.label)
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
        both = changed(before, self.model, [old, new], {self.label: old})
        self.store.write(both)
        try:
            self._until(f"loading {self.model} {new} beside {old}", lambda: self._unloaded(new))
            self._until(f"trying {self.model} {new}", lambda: self._untried(new))
        except BaseException as error:
            # Interrupted as well: nothing has been switched, so nothing needs to be kept.
            self.store.write(before)
            if isinstance(error, TimedOut):
                raise VersionFailed(f"{error} The configuration is as it was before, {old} is in use.") from None
            raise

    def _unloaded(self, version: int) -> Problem:
        for server in self.servers:
            try:
                state = server.states(self.model).get(version)
            except Unreachable as error:
                return str(error)
            if state is not None and state.error:
                raise VersionFailed(
                    f"{server.address} cannot load {self.model} {version}: {state.error} "
                    "The configuration is as it was before."
                )
            if state is None or not state.available:
                return f"{server.address}: {state.state if state else 'not seen yet; is the directory there?'}"
        return None

    def _untried(self, version: int) -> Problem:
        for server in self.servers:
            try:
                if not server.answers(self.model, version):
                    raise VersionFailed(f"{server.address} has loaded {self.model} {version}, which does not answer.")
            except Unreachable as error:
                return str(error)
        return next((wrong for one in self.gateways if (wrong := one.trial(self.model, version))), None)

    def _switch(self, old: int, new: int) -> None:
        self.store.write(changed(self.store.read(), self.model, [old, new], {self.label: new}))
        self._until(f"moving the label {self.label!r} to {new}", lambda: self._unlabelled(new))
        if self.gateways:
            self._until(f"gateways taking {new} into use", lambda: self._unfollowed(new))
        else:
            self.say(f"No gateway was named: giving them {self.timing.settle:g} s to follow.")
            time.sleep(self.timing.settle)

    def _unlabelled(self, version: int) -> Problem:
        for server in self.servers:
            try:
                found = server.version_in_use(self.model, self.label)
            except Unreachable as error:
                return str(error)
            if found != version:
                return f"{server.address}: the label stands for {found or 'nothing'}"
        return None

    def _unfollowed(self, version: int) -> Problem:
        for gateway in self.gateways:
            found, why = gateway.version(self.model)
            if found != version:
                return why or f"{gateway.address} uses {found}; does it follow MICROTOME_VERSION_LABEL={self.label}?"
        return None

    def _drop(self, version: int) -> None:
        """Serve this version alone from now on, whatever else lies on the disk."""
        text = self.store.read()
        alone = changed(text, self.model, [version], {self.label: version})
        if wanted(text, self.model) != wanted(alone, self.model):
            self.store.write(alone)
        self._until(f"unloading what is not {version}", lambda: self._undropped(version))

    def _undropped(self, version: int) -> Problem:
        for server in self.servers:
            try:
                available = _available(server, self.model)
            except Unreachable as error:
                return str(error)
            if available != {version}:
                return f"{server.address} has {', '.join(map(str, sorted(available)))}"
        return None

    def _until(self, what: str, problem: Callable[[], Problem]) -> None:
        """Wait until there is no problem left.

        Raises:
            TimedOut: there still is.
        """
        begin = time.monotonic()
        told: Problem = None
        while (left := problem()) is not None:
            if left != told:
                self.say(f"{what}: {left}")
                told = left
            if time.monotonic() - begin > self.timing.step:
                raise TimedOut(f"Not within {self.timing.step:g} s: {what}. {left}.")
            time.sleep(self.timing.poll)
        self.say(f"{what}: done ({time.monotonic() - begin:.1f} s)")


def _available(server: Server, model: str) -> set[int]:
    return {version for version, state in server.states(model).items() if state.available}
