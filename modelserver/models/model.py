"""One model: watches its directory, loads and unloads its versions, and records their states."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

from modelserver.batching.version import Version
from modelserver.config.logs import LogThrottle
from modelserver.errors import Deviates, ServingError
from modelserver.models.loading import Loaded
from modelserver.models.model_config import MissingBasePath, ModelConfig, find_versions
from modelserver.models.version_policy import Action, State, next_step

log = logging.getLogger(__name__)


@dataclass(slots=True)
class VersionRecord:
    """The state of one version. Records stay after the end, as in the real server.

    Attributes:
        number: The version's number.
        path: Its directory.
        state: Its state.
        error: The reason of a failure.
        version: The loaded version while it is AVAILABLE or UNLOADING.
        gone: Over, so that it starts again when it is wanted again: unloaded, or failed and absent since.
    """

    number: int
    path: Path
    state: State = State.START
    error: ServingError | None = None
    version: Version | None = None
    gone: bool = False


@dataclass(frozen=True, slots=True)
class Loading:
    """How versions are loaded, for all models together.

    Attributes:
        load: Loads one, or raises ServingError; blocks.
        threads: Run ``load``.
        turns: Admits as many loads as there are threads, so that a version is START until its load begins.
        retries: The number of tries after a failed load.
        retry_interval: Seconds between two tries.
        poll_wait: Seconds between two looks at the directory; 0 looks once, a negative number never.
    """

    load: Callable[[Path], Loaded]
    threads: Executor
    turns: asyncio.Semaphore
    retries: int = 5
    retry_interval: float = 60.0
    poll_wait: float = 1.0


class Model:
    """One model. Belongs to the event loop, except for blocking calls.

    Args:
        config: Its configuration.
        loading: How to load it.
    """

    def __init__(self, config: ModelConfig, loading: Loading) -> None:
        self.config = config
        self.records: dict[int, VersionRecord] = {}
        self.attempted = asyncio.Event()
        """Set when the first load has succeeded or failed once."""
        self.settled = asyncio.Event()
        """Set when a version is available, all wanted versions have failed for good, or none is wanted any more."""
        self.decided = asyncio.Event()
        """Set when it is settled, and when there is no version that could be."""
        self.retired = False
        """Whether the model has left the configuration."""
        self._loading = loading
        self._found: Mapping[int, Path] = {}
        self._aspired: frozenset[int] = frozenset()
        self._changed = asyncio.Event()
        self._steps: set[asyncio.Task[None]] = set()
        self._throttle = LogThrottle(log)

    def available(self) -> Mapping[int, Version]:
        """Return the versions that can answer now, by number."""
        return {
            number: record.version
            for number, record in self.records.items()
            if record.state is State.AVAILABLE and record.version
        }

    def configure(self, config: ModelConfig) -> None:
        """Apply a new configuration, also to a retired model."""
        if self.retired:
            self.settled.clear()
            self.decided.clear()
        self.config, self.retired = config, False
        self._changed.set()

    def retire(self) -> None:
        """Unload every version once its last request is answered."""
        self.retired = True
        self._settle()
        self._changed.set()

    async def watch(self) -> None:
        """Follow the directory until cancelled."""
        poll_wait = self._loading.poll_wait
        try:
            while True:
                self._changed.clear()
                if poll_wait >= 0 or self.retired:
                    await self._look()
                try:
                    await asyncio.wait_for(self._changed.wait(), poll_wait if poll_wait > 0 else None)
                except TimeoutError:
                    continue
        finally:
            for step in self._steps:
                step.cancel()

    async def _look(self) -> None:
        """Compare the directory with the wanted versions."""
        try:
            found = {} if self.retired else await asyncio.to_thread(find_versions, *self.config.place)
        except MissingBasePath as error:
            self._throttle.write(
                logging.ERROR,
                "Could not find base path for servable %s: %s. What is loaded stays; nothing new is discovered",
                self.config.name, error,
            )  # fmt: skip
            self.decided.set()
            return
        if not found and not self.retired:
            self._throttle.write(
                logging.WARNING,
                "No versions of servable %s found under base path %s. Did you forget to name your leaf directory as "
                "a number (eg. '/1/')?",
                self.config.name, self.config.base_path,
            )  # fmt: skip
        self._found, self._aspired = found, self.config.policy.aspire(found)
        for record in self.records.values():
            record.gone = record.gone or (record.state is State.END and record.number not in self._aspired)
        self._advance()

    def _advance(self) -> None:
        """Begin every step that is possible now."""
        states = {number: record.state for number, record in self.records.items() if not record.gone}
        while step := next_step(self._aspired, states):
            action, number = step
            if action is Action.LOAD:
                record = self.records[number] = VersionRecord(number, self._found[number])
                task = asyncio.create_task(self._load(record))
            else:
                record = self.records[number]
                record.state = State.UNLOADING
                task = asyncio.create_task(self._unload(record))
            self._steps.add(task)
            task.add_done_callback(self._finish)
            states[number] = record.state
        ends = [states[number] is State.END for number in self._aspired]
        if self.available() or (ends and all(ends)):
            self._settle()
        elif not self._aspired:
            self.decided.set()

    def _settle(self) -> None:
        self.settled.set()
        self.decided.set()

    def _finish(self, step: "asyncio.Task[None]") -> None:
        """Continue: the end of one step may allow the next."""
        self._steps.discard(step)
        if step.cancelled():
            return
        if error := step.exception():
            log.critical("A step in the life of model %s failed", self.config.name, exc_info=error)
        self._advance()

    async def _load(self, record: VersionRecord) -> None:
        failure = None
        for attempt in range(1 + self._loading.retries):
            if attempt and not await self._still_wanted(record):
                break
            try:
                async with self._loading.turns:
                    record.state = State.LOADING
                    loaded = await asyncio.get_running_loop().run_in_executor(
                        self._loading.threads, self._loading.load, record.path
                    )
            except ServingError as error:
                failure = error  # reported only after the last try
                log.error("Loading servable %s failed: %s", self._named(record), error)  # noqa: TRY400
                self.attempted.set()
                if isinstance(error, Deviates):
                    break  # as it would again
                continue
            record.version = Version(
                self.config.name, record.number, loaded.model, loaded.limits, bounds=loaded.bounds, engine=loaded.engine
            )
            record.state = State.AVAILABLE
            self.attempted.set()
            log.info("Serving %s", self._named(record))
            return
        record.state, record.error = State.END, failure
        record.gone = record.number not in self._aspired

    async def _still_wanted(self, record: VersionRecord) -> bool:
        """Wait for the next try; false as soon as the version is not wanted."""
        loop = asyncio.get_running_loop()
        due = loop.time() + self._loading.retry_interval
        while record.number in self._aspired:
            left = due - loop.time()
            if left <= 0:
                return True
            await asyncio.sleep(min(left, max(self._loading.poll_wait, 0.1)))
        return False

    async def _unload(self, record: VersionRecord) -> None:
        if record.version is not None:
            await record.version.drained()
            await asyncio.get_running_loop().run_in_executor(self._loading.threads, record.version.model.close)
        record.version, record.state, record.gone = None, State.END, True
        log.info("Unloaded %s", self._named(record))

    def _named(self, record: VersionRecord) -> str:
        return f"{{name: {self.config.name} version: {record.number}}}"
