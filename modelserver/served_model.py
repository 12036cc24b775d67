"""One model's life: watches its directory, loads what is wanted, unloads what is not, and remembers how it went."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

from modelserver.discovery import MissingBasePath, find_versions
from modelserver.errors import ServingError
from modelserver.loading import Loaded
from modelserver.model_config import ModelConfig
from modelserver.recurring_log import RecurringLog
from modelserver.servable import Servable
from modelserver.version_policy import Action, State, next_step

log = logging.getLogger(__name__)


@dataclass(slots=True)
class VersionRecord:
    """What is known of one version. Records stay after the end, as the real server's do.

    Attributes:
        version: Its number.
        path: Its directory.
        state: Where it is in its life.
        error: Why it ended, when it failed.
        servable: What answers for it while it is AVAILABLE or UNLOADING.
        gone: Over, so that it begins anew when it is wanted again: unloaded, or failed and then away for a while.
    """

    version: int
    path: Path
    state: State = State.START
    error: ServingError | None = None
    servable: Servable | None = None
    gone: bool = False


@dataclass(frozen=True, slots=True)
class Loading:
    """How versions are loaded, for all models together.

    Attributes:
        load: What loads one, or raises ServingError; blocks.
        threads: Where it blocks.
        turns: Admits as many loads as there are threads, so that a version is START until its load begins.
        retries: How often a failed load is tried again.
        retry_interval: Seconds between two tries.
        poll_wait: Seconds between two looks at the directory; 0 looks once, a negative number never.
    """

    load: Callable[[Path], Loaded]
    threads: Executor
    turns: asyncio.Semaphore
    retries: int = 5
    retry_interval: float = 60.0
    poll_wait: float = 1.0


class ServedModel:
    """One model. All of it happens on the event loop, except for what blocks.

    Args:
        config: What to serve.
        loading: How to load it.
    """

    def __init__(self, config: ModelConfig, loading: Loading) -> None:
        self.config = config
        self.records: dict[int, VersionRecord] = {}
        self.attempted = asyncio.Event()
        """Set when the first load has succeeded or failed once."""
        self.settled = asyncio.Event()
        """Set when a version is available, or when all that were wanted have failed for good."""
        self._loading = loading
        self._found: Mapping[int, Path] = {}
        self._aspired: frozenset[int] = frozenset()
        self._retired = False
        self._changed = asyncio.Event()
        self._steps: set[asyncio.Task[None]] = set()
        self._complaints = RecurringLog(log)

    @property
    def retired(self) -> bool:
        """Whether the model has left the configuration."""
        return self._retired

    def servables(self) -> Mapping[int, Servable]:
        """List the versions that can answer now, by number."""
        return {
            version: record.servable
            for version, record in self.records.items()
            if record.state is State.AVAILABLE and record.servable
        }

    def configure(self, config: ModelConfig) -> None:
        """Take a new configuration, and come back if retired."""
        if self._retired:
            self.settled.clear()
        self.config, self._retired = config, False
        self._changed.set()

    def retire(self) -> None:
        """Leave: every version is unloaded once its last request is answered."""
        self._retired = True
        self._changed.set()

    async def watch(self) -> None:
        """Follow the directory until cancelled."""
        poll_wait = self._loading.poll_wait
        try:
            while True:
                self._changed.clear()
                if poll_wait >= 0 or self._retired:
                    await self._look()
                try:
                    await asyncio.wait_for(self._changed.wait(), poll_wait if poll_wait > 0 else None)
                except TimeoutError:
                    continue
        finally:
            for step in self._steps:
                step.cancel()

    async def _look(self) -> None:
        """Compare the directory with what is wanted."""
        try:
            found = {} if self._retired else await asyncio.to_thread(find_versions, self.config.base_path)
        except MissingBasePath as error:
            self._complaints.error(
                "Could not find base path for servable %s: %s. What is loaded stays; nothing new is discovered",
                self.config.name, error,
            )  # fmt: skip
            return
        if not found and not self._retired:
            self._complaints.warning(
                "No versions of servable %s found under base path %s. Did you forget to name your leaf directory as "
                "a number (eg. '/1/')?",
                self.config.name, self.config.base_path,
            )  # fmt: skip
        self._found, self._aspired = found, self.config.policy.aspire(found)
        for record in self.records.values():
            record.gone = record.gone or (record.state is State.END and record.version not in self._aspired)
        self._advance()

    def _advance(self) -> None:
        """Begin every step that can be taken now."""
        states = {version: record.state for version, record in self.records.items() if not record.gone}
        while step := next_step(self._aspired, states):
            action, version = step
            if action is Action.LOAD:
                record = self.records[version] = VersionRecord(version, self._found[version])
                self._begin(record, State.START)
            else:
                self._begin(self.records[version], State.UNLOADING)
            states[version] = self.records[version].state
        ends = [states[version] is State.END for version in self._aspired]
        if self.servables() or (ends and all(ends)):
            self.settled.set()

    def _begin(self, record: VersionRecord, state: State) -> None:
        record.state = state
        step = asyncio.create_task(self._load(record) if state is State.START else self._unload(record))
        self._steps.add(step)
        step.add_done_callback(self._finish)

    def _finish(self, step: "asyncio.Task[None]") -> None:
        """Go on: the end of one step may allow the next."""
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
                failure = error  # told only when the retries are used up
                log.error("Loading servable %s failed: %s", self._named(record), error)  # noqa: TRY400
                self.attempted.set()
                continue
            name = self.config.name
            record.servable = Servable(name, record.version, loaded.model, loaded.limits)
            record.state = State.AVAILABLE
            self.attempted.set()
            log.info("Serving %s", self._named(record))
            return
        record.state, record.error = State.END, failure
        record.gone = record.version not in self._aspired

    async def _still_wanted(self, record: VersionRecord) -> bool:
        """Wait for the next try; false as soon as the version is no longer wanted."""
        loop = asyncio.get_running_loop()
        due = loop.time() + self._loading.retry_interval
        while record.version in self._aspired:
            left = due - loop.time()
            if left <= 0:
                return True
            await asyncio.sleep(min(left, max(self._loading.poll_wait, 0.1)))
        return False

    async def _unload(self, record: VersionRecord) -> None:
        servable = record.servable
        if servable is not None:
            await servable.drained()
            await asyncio.get_running_loop().run_in_executor(self._loading.threads, servable.model.close)
        record.servable, record.state, record.gone = None, State.END, True
        log.info("Unloaded %s", self._named(record))

    def _named(self, record: VersionRecord) -> str:
        return f"{{name: {self.config.name} version: {record.version}}}"
