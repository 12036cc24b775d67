"""One stream: any number of images, of which a bounded number is in memory.

A place is taken before a message is read and freed when its answer has been written. So no more images are read from a
caller that does not read its answers, or while there is no room: in a stream, Overloaded means waiting, not failing.
HTTP/2's flow control passes this on to the caller.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from time import perf_counter
from typing import NamedTuple, TypeVar

import grpc.aio
from google.rpc.status_pb2 import Status

from microtome.errors import (
    BadRequest,
    BodyTooSlow,
    DeadlineExceeded,
    ModelServerDown,
    Overloaded,
    ServiceError,
    TooManyImages,
)
from microtome.regions import WHOLE, Region
from microtome.v1 import embedding_pb2 as pb
from service.core.intake import Intake
from service.core.remote_images import Image
from service.core.requests import Embedded, unplaced
from service.core.timings import Timings
from service.errors import restated
from service.grpc.embed import CallLimits, holding, image_of, parsed, regions_of
from service.grpc.encoding import Answer, CallOptions, StreamWriter, field, results, version_of
from service.grpc.middleware import Call, Calls

T = TypeVar("T")
StreamRequest = pb.EmbedStreamRequest | pb.ClassifyStreamRequest
"""Numbered alike, and so are their answers."""

_LONGEST_SILENCE = 60.0
"""Seconds without an image or an answer after which a stream ends."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 0.5
"""Seconds between two attempts."""


_ALL = (WHOLE,)

_MODEL, _RESULT = pb.StreamAnswer.MODEL_FIELD_NUMBER, pb.StreamAnswer.RESULT_FIELD_NUMBER


class _Arrived(NamedTuple):
    """One image of a message: its digest if it is known, the bytes that it holds, and when it arrived.

    Of an image with crops, those that are left to compute, each with its digest.
    """

    name: str
    image: Image
    digests: Sequence[str | None]
    regions: Sequence[Region]
    amount: int
    start: float


class Stream:
    """Reads images and writes answers, until the caller has sent all or one of both sides stops."""

    def __init__(  # noqa: PLR0913, collaborators
        self, call: Call, calls: Calls, intake: Intake, limits: CallLimits, asked: CallOptions, *, grouped: bool
    ) -> None:
        """Prepare.

        Args:
            call: whose messages are read and written.
            calls: counts each image.
            intake: embeds them.
            limits: of this call.
            asked: the options, of all images.
            grouped: whether the caller reads several answers in a message, and may send several images in one.
        """
        self._call = call
        self._calls = calls
        self._intake = intake
        self._limits = limits
        self._asked = asked
        self._kind = pb.EmbedStreamRequest if asked.classes is None else pb.ClassifyStreamRequest
        limit = pb.EmbedStreamResponse(max_images=limits.grouped_images, max_bytes=limits.grouped_bytes)
        self._writer = StreamWriter(call.context.write, self._written, announcing=limit if grouped else None)
        self._places = asyncio.Semaphore(limits.stream_images)
        self._capacity = CapacityWaiter()
        self._reading: asyncio.Task[None] | None = None
        self._ended_by: ServiceError | None = None
        self._accepting = False
        self._running: asyncio.Task[object] | None = None
        self._moved = 0.0
        """When a message was read or an answer written last, as the event loop counts."""
        self._silence: asyncio.TimerHandle

    async def run(self, first: StreamRequest) -> None:
        """Answer the first message, if it holds images, and all that follow it.

        Raises:
            ServiceError: the stream cannot go on; all that was read before has been answered.
        """
        loop = asyncio.get_running_loop()
        self._running, self._moved = asyncio.current_task(), loop.time()
        self._check_silence()
        try:
            async with asyncio.TaskGroup() as tasks:
                self._reading = tasks.create_task(self._read(first, tasks))
        except BaseExceptionGroup as group:
            # Only writing fails here, and all failures have one cause: the caller has gone.
            raise group.exceptions[0] from None
        finally:
            self._silence.cancel()
        if self._ended_by is not None:
            raise self._ended_by

    def stop(self) -> None:
        """Stop reading; what has been read is answered, then the stream ends with ModelServerDown."""
        self._end(ModelServerDown("The gateway is stopping. Send what has no answer yet to another one."))

    def _end(self, error: ServiceError) -> None:
        if self._reading is not None and not self._reading.done():
            self._ended_by = error
            # While it handles a message the reader checks this itself: a write must not be cancelled halfway.
            if not self._accepting:
                self._reading.cancel()

    def _check_silence(self) -> None:
        """End a stream in which nothing moves: it would hold its place for ever."""
        loop = asyncio.get_running_loop()
        # Answers may take as long as the deadline.
        longest = max(_LONGEST_SILENCE, 2 * self._intake.deadline)
        left = self._moved + longest - loop.time()
        if left > 0:
            self._silence = loop.call_later(left, self._check_silence)
        elif self._writer.busy and self._running is not None:
            # The caller reads no answers, so it would not read this one either.
            self._running.cancel()
        else:
            self._end(BodyTooSlow(f"Expected the next image within {longest:g} s, received none. Open a new stream."))

    async def _read(self, first: StreamRequest, tasks: asyncio.TaskGroup) -> None:
        try:
            if first.HasField("image") or first.id or first.more:
                await self._places.acquire()
                await self._accept(first, first.ByteSize(), tasks)
            del first
            while self._ended_by is None:
                await self._places.acquire()
                await self._capacity.idle()
                raw = await self._call.read()
                if raw is None:
                    return
                await self._accept(_further(raw, self._kind), len(raw), tasks)
        except ServiceError as error:
            self._ended_by = error

    async def _accept(self, message: StreamRequest, amount: int, tasks: asyncio.TaskGroup) -> None:
        """Answer what is in memory, and start on the rest as soon as there is room for its bytes.

        One place has been taken already; further images take theirs here.

        Raises:
            TooManyImages: more than one message may hold.
        """
        self._accepting = True
        self._moved = asyncio.get_running_loop().time()
        try:
            start = perf_counter()
            named = [(each.id, each.image) for each in message.more]
            if message.HasField("image") or message.id or not named:
                named.insert(0, (message.id, message.image))
            most = self._limits.grouped_images
            if len(named) > most:
                raise TooManyImages(f"Expected at most {most} images in a message of a stream, received {len(named)}.")
            images = [image_of(image, self._limits.max_image_bytes) for _, image in named]
            regions: list[Region] = []
            if any(image.crops for _, image in named):
                places, images, regions = _expanded(named, images, most)
            else:
                places = list(range(len(named)))
            for _ in images[1:]:
                await self._places.acquire()
            await self._until_rate_allows(len(images))
            digests, known = self._from_memory(images, regions)
            # No task, no budget: only the caller is waited for, who reads answers before more is read from it.
            await self._writer.put(
                [
                    Answer(named[place][0], body, 0, start)
                    for place, body in zip(places, known, strict=True)
                    if body is not None
                ]
            )
            left: dict[int, list[int]] = {}
            for index, (place, body) in enumerate(zip(places, known, strict=True)):
                if body is None:
                    left.setdefault(place, []).append(index)
            for place, indexes in left.items():
                name, whole = named[place]
                held = amount if len(named) == 1 else whole.ByteSize()
                own = [regions[index] for index in indexes] if regions else ()
                arrived = _Arrived(name, images[indexes[0]], [digests[i] for i in indexes], own, held, start)
                await self._take(arrived, tasks)
        finally:
            self._accepting = False

    async def _until_rate_allows(self, images: int) -> None:
        """Count images by the minute. As with all that is limited, a stream waits, however long its call may take.

        Raises:
            TooManyImages: a minute never allows so many.
            ModelServerDown: the gateway stops.
        """
        rate = self._call.caller.rate if self._call.caller else None
        while rate:
            try:
                await rate.take(images, requests=0)
            except Overloaded as error:
                if self._ended_by is not None:
                    raise restated(self._ended_by) from None
                await asyncio.sleep(min(error.retry_after, _LONGEST_PAUSE))
                # The gateway waits here, not the caller.
                self._moved = asyncio.get_running_loop().time()
            else:
                return

    def _from_memory(
        self, images: Sequence[Image], regions: Sequence[Region]
    ) -> tuple[Sequence[str | None], Sequence[bytes | None]]:
        """Return the images' digests and the bodies of their answers, None where that takes waiting."""
        together = self._intake.digests(images, self._timings(), self._asked.request.tenant, regions)
        if together is not None and (bodies := self._known(together, regions)):
            return together, bodies
        if len(images) == 1:
            return together or [None], [None]
        parts: Sequence[Sequence[Region]] = [[region] for region in regions] or [()] * len(images)
        digests: Sequence[str | None] = together or list(map(self._digest, images, parts))
        return digests, list(map(self._body, digests, parts))

    def _digest(self, image: Image, region: Sequence[Region]) -> str | None:
        found = self._intake.digests([image], self._timings(), self._asked.request.tenant, region)
        return found[0] if found else None

    def _timings(self) -> Timings:
        return Timings(self._intake.observer.stage)

    def _body(self, digest: str | None, region: Sequence[Region]) -> bytes | None:
        found = self._known([digest], region) if digest else None
        return found[0] if found else None

    def _known(self, digests: Sequence[str], regions: Sequence[Region]) -> list[bytes] | None:
        """Return the bodies of the answers to these images if all their vectors are in memory."""
        if self._asked.request.candidates is not None:
            return None  # their labels are compared where they are embedded
        try:
            embedded = self._intake.embedder.cached(self._asked.request, digests, self._timings())
            return None if embedded is None else self._bodies(embedded, len(digests), regions)
        except ServiceError:
            return None  # reported by `embed`, unless the cause is gone by then

    async def _take(self, arrived: _Arrived, tasks: asyncio.TaskGroup) -> None:
        """Start to answer an image as soon as there is room for its bytes."""
        held = ExitStack()
        refused = None

        async def hold() -> None:
            held.enter_context(holding(self._intake, self._call.caller, arrived.amount))

        try:
            await hold()
        except Overloaded:
            # The images of one message wait one after the other, none longer than the time allowed for an image.
            seconds = self._call.allowed(self._intake.deadline) - (perf_counter() - arrived.start)
            try:
                await self._capacity.until_done(hold, seconds)
            except ServiceError as error:
                refused = error
        tasks.create_task(self._answer(arrived, held, refused))

    async def _answer(self, arrived: _Arrived, held: ExitStack, refused: ServiceError | None) -> None:
        name, start = arrived.name, perf_counter()
        with held:
            if refused is None:
                answers = await self._answered(arrived)
            else:
                answers = [self._fault(refused, region) for region in arrived.regions or _ALL]
            del arrived
        await self._writer.put([Answer(name, body, code, start) for code, body in answers])

    def _written(self, answer: Answer) -> None:
        """Count an answer that has been written, and free its place."""
        self._moved = asyncio.get_running_loop().time()
        self._calls.image_answered(self._call, answer.code, perf_counter() - answer.start)
        self._places.release()

    async def _answered(self, arrived: _Arrived) -> list[tuple[int, bytes]]:
        """Return the status and the body of an image's answer, or of one for each of its crops."""
        own = self._call.caller.images if self._call.caller else None
        count, regions = len(arrived.digests), arrived.regions
        digests = [digest for digest in arrived.digests if digest]
        request = self._asked.request
        try:
            embedded = await self._capacity.until_done(
                lambda: self._intake.embed(
                    # All of its crops fail with an image.
                    replace(request, on_error="fail") if count > 1 else request,
                    [arrived.image] * count,
                    self._timings(),
                    own=own,
                    digests=digests if len(digests) == count else None,
                    regions=regions,
                ),
                self._call.allowed(self._intake.deadline),
            )
            return [(0, body) for body in self._bodies(embedded, count, regions)]
        except ServiceError as error:
            # In a stream an image has an id in place of the number that the core gives it.
            alone = restated(error, unplaced(error))
            return [self._fault(alone, region) for region in regions or _ALL]
        except grpc.aio.BaseError:
            raise
        except Exception:  # noqa: BLE001, one image must not end the stream
            status = self._calls.unexpected(self._call)
            return [_failure(status, region) for region in regions or _ALL]

    def _fault(self, error: ServiceError, region: Region) -> tuple[int, bytes]:
        return _failure(self._calls.failed(error, self._call), region)

    def _bodies(self, embedded: Embedded, images: int, regions: Sequence[Region]) -> list[bytes]:
        model = field(_MODEL, version_of(embedded.card))
        return [model + field(_RESULT, result) for result in results(embedded, self._asked, images, regions)]


def _expanded(
    named: Sequence[tuple[str, pb.Image]], images: Sequence[Image], most: int
) -> tuple[list[int], list[Image], list[Region]]:
    """Take each region of a message's images for an image of its own; one that is wrong fails its image.

    Returns:
        Which image of the message each belongs to, the images, and the regions.

    Raises:
        TooManyImages: more than one message may hold.
    """
    count = sum(len(message.crops) or 1 for _, message in named)
    if count > most:
        raise TooManyImages(f"Expected at most {most} images in a message of a stream, received {count}.")
    found: list[tuple[int, Image, Region]] = []
    for place, (image, (_, message)) in enumerate(zip(images, named, strict=True)):
        regions = regions_of(message)
        wrong = next((region for region in regions if isinstance(region, BadRequest)), None)
        found += [(place, wrong or image, WHOLE if isinstance(region, BadRequest) else region) for region in regions]
    return [place for place, _, _ in found], [image for _, image, _ in found], [region for _, _, region in found]


def _further(raw: bytes, kind: type[StreamRequest]) -> StreamRequest:
    message = parsed(kind, raw)
    if message.HasField("options") or (isinstance(message, pb.ClassifyStreamRequest) and message.HasField("classes")):
        raise BadRequest("Expected options in the stream's first message only.")
    return message


def _failure(status: Status, region: Region) -> tuple[int, bytes]:
    result = pb.ImageResult(error=status)
    if region != WHOLE:
        result.crop.MergeFrom(pb.Crop(x=region.x, y=region.y, width=region.width, height=region.height))
    return status.code, pb.StreamAnswer(result=result).SerializeToString()


class CapacityWaiter:
    """Does work as soon as there is room for it, and knows whether any of it still waits."""

    def __init__(self) -> None:
        self._waiting = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def idle(self) -> None:
        """Return as soon as nothing waits for room."""
        await self._idle.wait()

    async def until_done(self, attempt: Callable[[], Awaitable[T]], seconds: float) -> T:
        """Attempt something until it is not refused for lack of room.

        Args:
            attempt: repeated; costs little while it is refused.
            seconds: for all attempts together.

        Raises:
            Overloaded: there was no room in all that time.
            DeadlineExceeded: there was room, and the work took too long.
        """
        refusal: Overloaded | None = None
        pause = _FIRST_PAUSE
        try:
            async with asyncio.timeout(seconds):
                while True:
                    try:
                        return await attempt()
                    except Overloaded as error:
                        if refusal is None:
                            self._wait(1)
                        refusal = error
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, _LONGEST_PAUSE)
        except TimeoutError:
            if refusal is not None:
                raise restated(refusal) from None
            raise DeadlineExceeded(f"No answer within {seconds:g} s, the time allowed for an image.") from None
        finally:
            if refusal is not None:
                self._wait(-1)

    def _wait(self, change: int) -> None:
        self._waiting += change
        if self._waiting:
            self._idle.clear()
        else:
            self._idle.set()
