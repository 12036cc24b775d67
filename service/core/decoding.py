"""Decode images in threads, within a budget of bytes; what would hold the interpreter is decoded in other processes.

The threads bound what is decoded at a time, the budget what that needs: a WebP takes sixteen bytes a pixel, a JPEG a
fraction of one. An image waits for its share of the budget without a thread, and small ones may overtake it.
"""

import asyncio
import json
import os
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict
from threading import Lock, Timer
from typing import IO

import numpy as np

from microtome import errors
from microtome.errors import BrokenImage, ImageTooLarge, ServiceError
from microtome.manifest import InputSpec
from microtome.opening import DEFAULT_FORMATS
from microtome.preprocessing import Cost, prepared
from microtome.regions import WHOLE, Region
from service.core.ports import Pixels

_MOST_OVERTAKEN = 64
"""Images that may be decoded before one that came earlier and waits for a larger share."""

_PROCESS_SECONDS = 60.0
"""Seconds after which a process that decodes one image is ended."""

_IDLE_SECONDS = 10.0
"""Seconds after which a process without work is ended: it takes 40 MB, and 0.4 s to start."""

_MOST_IDLE = 4

_LENGTH = 8

_ALL = (WHOLE,)

_KEEP_LITTLE = {"MALLOC_MMAP_THRESHOLD_": str(1 << 20), "MALLOC_TRIM_THRESHOLD_": str(1 << 20)}
"""glibc returns the memory of each large image to the system; by default it keeps hundreds of megabytes."""


class DecodeMemory:
    """Bytes that decoding may take at a time. `take` and `give` may be called by any thread."""

    def __init__(self, limit: int, on_change: Callable[[int], object] = lambda _: None) -> None:
        """Hold nothing yet.

        Args:
            limit: the most to hold.
            on_change: called with the bytes held.
        """
        self.limit = limit
        self._on_change = on_change
        self._held = 0
        self._lock = Lock()
        self._waiting: deque[_Waiting] = deque()

    def take(self, amount: int) -> bool:
        """Hold `amount` if it fits now, and the first image that waits has not been overtaken too often."""
        with self._lock:
            if self._held + amount > self.limit:
                return False
            if self._waiting:
                first = self._waiting[0]
                if first.overtaken >= _MOST_OVERTAKEN:
                    return False
                first.overtaken += 1
            self._change(amount)
            return True

    def give(self, amount: int) -> None:
        """Let go of `amount`, and hand what is free to those who wait."""
        with self._lock:
            self._change(-amount)
            while self._waiting and self._held + self._waiting[0].amount <= self.limit:
                first = self._waiting.popleft()
                self._change(first.amount)
                first.loop.call_soon_threadsafe(self._grant, first)

    async def wait(self, amount: int) -> None:
        """Wait until `amount` is held, in order of arrival."""
        waiting = _Waiting(amount, asyncio.get_running_loop())
        with self._lock:
            if not self._waiting and self._held + amount <= self.limit:
                self._change(amount)
                return
            self._waiting.append(waiting)
        try:
            await waiting.granted
        except asyncio.CancelledError:
            with self._lock:
                queued = waiting in self._waiting
                if queued:
                    self._waiting.remove(waiting)
            if not queued and waiting.granted.done() and not waiting.granted.cancelled():
                self.give(amount)
            elif queued:
                # It may have been all that the next one waited for.
                self.give(0)
            raise

    def _grant(self, waiting: "_Waiting") -> None:
        if waiting.granted.done():
            self.give(waiting.amount)
        else:
            waiting.granted.set_result(None)

    def _change(self, amount: int) -> None:
        self._held += amount
        self._on_change(self._held)


class _Waiting:
    def __init__(self, amount: int, loop: asyncio.AbstractEventLoop) -> None:
        self.amount, self.loop = amount, loop
        self.granted: asyncio.Future[None] = loop.create_future()
        self.overtaken = 0


class Decoding:
    """Decodes callers' images."""

    def __init__(
        self,
        threads: ThreadPoolExecutor,
        memory: DecodeMemory,
        *,
        at_a_time: int,
        max_pixels: int,
        formats: Collection[str] = DEFAULT_FORMATS,
    ) -> None:
        """Start nothing yet.

        Args:
            threads: in which images are decoded.
            memory: what they may take together.
            at_a_time: how many threads there are.
            max_pixels: of one image.
            formats: that are read, by Pillow's names.
        """
        self._threads = threads
        self.at_a_time = at_a_time
        self._memory = memory
        self._max_pixels = max_pixels
        self._formats = tuple(formats)
        self._processes = _Processes()

    async def pixels(self, encoded: bytes, spec: InputSpec) -> Pixels:
        """Decode one image.

        Returns:
            uint8 [height, width, channels].

        Raises:
            NotAnImage, BrokenImage: as `microtome.preprocessing.decode` does.
            ImageTooLarge: likewise, or decoding needs more memory than all images may take together.
        """
        (found,) = await self.parts(encoded, spec, _ALL)
        return found

    async def parts(self, encoded: bytes, spec: InputSpec, regions: Sequence[Region]) -> list[Pixels]:
        """Decode one image, and return the pixels of regions of it.

        Raises:
            ServiceError: as `pixels` does.
        """
        found = await asyncio.wrap_future(self._threads.submit(self._attempt, encoded, spec, regions))
        if not isinstance(found, Cost):
            return found
        await self._memory.wait(found.memory)
        try:
            # The thread gives it back, since a caller who leaves must not free memory that is still in use.
            work = self._threads.submit(self._held, encoded, spec, regions, found)
        except RuntimeError:
            self._memory.give(found.memory)
            raise
        # Cancelled before a thread took it, it gives nothing back itself.
        work.add_done_callback(lambda done: self._memory.give(found.memory) if done.cancelled() else None)
        return await asyncio.wrap_future(work)

    def close(self) -> None:
        """End the processes that decode."""
        self._processes.close()

    def _attempt(self, encoded: bytes, spec: InputSpec, regions: Sequence[Region]) -> list[Pixels] | Cost:
        with prepared(encoded, spec, max_pixels=self._max_pixels, formats=self._formats, regions=regions) as picture:
            cost = picture.cost
            if cost.memory > self._memory.limit:
                raise ImageTooLarge(
                    f"Expected an image that can be decoded in {_mb(self._memory.limit)} MB; this one needs about "
                    f"{_mb(cost.memory)} MB. Send a smaller copy, or a JPEG; MICROTOME_DECODE_BYTES is the limit."
                )
            if not self._memory.take(cost.memory):
                return cost
            if not cost.apart:
                try:
                    return picture.parts()
                finally:
                    self._memory.give(cost.memory)
        return self._held(encoded, spec, regions, cost)

    def _held(self, encoded: bytes, spec: InputSpec, regions: Sequence[Region], cost: Cost) -> list[Pixels]:
        """Decode what holds its memory already, and let go of it."""
        try:
            if cost.apart:
                return self._processes.decode(encoded, spec, regions, self._max_pixels, self._formats)
            return _decoded(encoded, spec, regions, self._max_pixels, self._formats)
        finally:
            self._memory.give(cost.memory)


def _decoded(
    encoded: bytes, spec: InputSpec, regions: Sequence[Region], max_pixels: int, formats: Collection[str]
) -> list[Pixels]:
    with prepared(encoded, spec, max_pixels=max_pixels, formats=formats, regions=regions) as picture:
        return picture.parts()


class Parts:
    """Regions of one image, decoded together when the first of them is needed."""

    def __init__(self, decoding: Decoding, encoded: bytes, spec: InputSpec, regions: Sequence[Region]) -> None:
        self._decoding, self._encoded, self._spec = decoding, encoded, spec
        self._regions = regions
        self._waiting = 0
        self._task: asyncio.Task[list[Pixels]] | None = None

    async def pixels(self, region: Region) -> Pixels:
        """Return one region's pixels; when no region is waited for any longer, decoding ends.

        Raises:
            ServiceError: as `Decoding.pixels` does.
        """
        if self._task is None:
            self._task = asyncio.create_task(self._decoding.parts(self._encoded, self._spec, self._regions))
        task = self._task
        self._waiting += 1
        try:
            found = await asyncio.shield(task)
        finally:
            self._waiting -= 1
            if not self._waiting and not task.done():
                task.cancel()
                self._task = None
        return found[self._regions.index(region)]


def _mb(amount: int) -> int:
    return round(amount / 1e6)


class _Processes:
    """Processes that decode one image at a time each, started when needed and ended when idle."""

    def __init__(self) -> None:
        self._idle: list[subprocess.Popen[bytes]] = []
        self._busy: set[subprocess.Popen[bytes]] = set()
        self._lock = Lock()

    def decode(
        self, encoded: bytes, spec: InputSpec, regions: Sequence[Region], max_pixels: int, formats: Collection[str]
    ) -> list[Pixels]:
        """Decode in another process, as `_decoded` does in this one; blocks the thread.

        Raises:
            NotAnImage, BrokenImage, ImageTooLarge: likewise.
        """
        head = {"spec": asdict(spec), "regions": regions, "max_pixels": max_pixels, "formats": tuple(formats)}
        with self._process() as process:
            answer = _exchange(process, json.dumps(head).encode(), encoded)
        kind, body = answer[:1], answer[1:]
        if kind == b"+":
            return list(np.frombuffer(body, np.uint8).reshape(len(regions), *spec.shape))
        words = json.loads(body)
        raise getattr(errors, words["error"])(words["message"])

    @contextmanager
    def _process(self) -> Iterator[subprocess.Popen[bytes]]:
        with self._lock:
            process = self._idle.pop() if self._idle else None
        if process is None or process.poll() is not None:
            process = subprocess.Popen(
                [sys.executable, "-m", "service.core.decoding"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, **_KEEP_LITTLE},
                # Ctrl-C in a terminal is for the gateway, which ends this one by closing its input.
                start_new_session=True,
            )
        with self._lock:
            self._busy.add(process)
        overdue = Timer(_PROCESS_SECONDS, process.kill)
        overdue.daemon = True
        overdue.start()
        try:
            yield process
        except BaseException:
            process.kill()
            _ended(process)
            raise
        finally:
            overdue.cancel()
            with self._lock:
                self._busy.discard(process)
        with self._lock:
            if keep := len(self._idle) < _MOST_IDLE:
                self._idle.append(process)
        if not keep:
            _ended(process)
            return
        later = Timer(_IDLE_SECONDS, self._end_if_idle, [process])
        later.daemon = True
        later.start()

    def _end_if_idle(self, process: subprocess.Popen[bytes]) -> None:
        with self._lock:
            if process not in self._idle:
                return
            self._idle.remove(process)
        _ended(process)

    def close(self) -> None:
        """End all of them; images that are still being decoded fail."""
        with self._lock:
            idle, self._idle = self._idle, []
            for process in self._busy:
                process.kill()
        for process in idle:
            _ended(process)


def _ended(process: subprocess.Popen[bytes]) -> None:
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with suppress(OSError):
                stream.close()
    process.wait()


def _exchange(process: subprocess.Popen[bytes], *parts: bytes) -> bytes:
    """Send a request and return the answer.

    Raises:
        BrokenImage: the process ended instead.
    """
    requests, answers, answer = process.stdin, process.stdout, None
    if requests is not None and answers is not None:
        with suppress(OSError):
            for part in parts:
                requests.write(len(part).to_bytes(_LENGTH, "big"))
                requests.write(part)
            requests.flush()
            answer = _read(answers)
    if answer is None:
        raise BrokenImage("The decoder ended or took too long on this image. Save it again, as JPEG or PNG.")
    return answer


def _read(stream: IO[bytes]) -> bytes | None:
    """Read one part; None at the end of the stream."""
    size = stream.read(_LENGTH)
    if len(size) < _LENGTH:
        return None
    part = stream.read(int.from_bytes(size, "big"))
    return part if len(part) == int.from_bytes(size, "big") else None


def main() -> None:
    """Decode the images that come through the standard input, until it ends."""
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    # Where cores are scarce, the loop that answers everyone comes first.
    os.nice(5)
    while (head := _read(requests)) is not None and (encoded := _read(requests)) is not None:
        words = json.loads(head)
        try:
            spec = InputSpec(**words["spec"])
            regions = [Region(*region) for region in words["regions"]]
            parts = _decoded(encoded, spec, regions, words["max_pixels"], words["formats"])
            answer = b"".join((b"+", *(pixels.tobytes() for pixels in parts)))
        except ServiceError as error:
            answer = b"-" + json.dumps({"error": type(error).__name__, "message": str(error)}).encode()
        except MemoryError:
            answer = (
                b"-" + json.dumps({"error": "ImageTooLarge", "message": "Too little memory to decode it."}).encode()
            )
        answers.write(len(answer).to_bytes(_LENGTH, "big") + answer)
        answers.flush()


if __name__ == "__main__":
    main()
