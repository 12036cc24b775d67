"""One stream: any number of images, and no more of them in memory than there are places.

A place is taken before a message is read and given back when its answer has been written. So a caller that reads no
answers is read no more images from, and neither is one whose images find no room: in a stream, Overloaded means to
wait, not to fail. HTTP/2's flow control takes it from there, to the caller's own side.
"""

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack
from time import perf_counter

import grpc.aio

from microtome.v1 import embedding_pb2 as pb
from service.embedding.intake import Intake
from service.embedding.request import Embedded
from service.embedding.stopwatch import Timings
from service.embedding.urls import Image
from service.errors import BadRequest, ModelServerDown, Overloaded, ServiceError, restated
from service.grpc_api.answers import results, version_of
from service.grpc_api.calls import Call, Calls
from service.grpc_api.embed import holding
from service.grpc_api.images import CallLimits, image_of, parsed
from service.grpc_api.options import Asked
from service.grpc_api.patience import Patience

_ALONE = "Image 0: "
"""How the core calls the only image of a request; in a stream it has an id."""


class Stream:
    """Reads images and writes answers, until the caller has said all or one of both sides stops."""

    def __init__(self, call: Call, calls: Calls, intake: Intake, limits: CallLimits, asked: Asked) -> None:
        self._call = call
        self._calls = calls
        self._intake = intake
        self._limits = limits
        self._asked = asked
        self._places = asyncio.Semaphore(limits.stream_images)
        self._patience = Patience()
        self._writing = asyncio.Lock()
        self._reading: asyncio.Task[None] | None = None
        self._ended_by: ServiceError | None = None
        self._answering = False

    async def run(self, first: pb.EmbedStreamRequest) -> None:
        """Answer the first message, if it holds an image, and all that follow it.

        Raises:
            ServiceError: the stream cannot go on; all that was read before has been answered.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                self._reading = tasks.create_task(self._read(first, tasks))
        except BaseExceptionGroup as group:
            # What fails here is writing, and each of them is the same news: the caller has gone.
            raise group.exceptions[0] from None
        if self._ended_by is not None:
            raise self._ended_by

    def stop(self) -> None:
        """Read no more; what has been read is answered, then the caller is told to go elsewhere."""
        if self._reading is not None and not self._reading.done():
            self._ended_by = ModelServerDown("The gateway is stopping. Send what has no answer yet to another one.")
            # In the middle of an answer the reader looks for this itself: half a write cannot be taken back.
            if not self._answering:
                self._reading.cancel()

    async def _read(self, first: pb.EmbedStreamRequest, tasks: asyncio.TaskGroup) -> None:
        try:
            if first.HasField("image") or first.id:
                await self._places.acquire()
                await self._accept(first, first.ByteSize(), tasks)
            while self._ended_by is None:
                await self._places.acquire()
                await self._patience.nobody_waits()
                raw = await self._call.read()
                if raw is None:
                    return
                message = parsed(pb.EmbedStreamRequest, raw)
                if message.HasField("options"):
                    raise BadRequest("Expected `options` in the stream's first message only.")
                await self._accept(message, len(raw), tasks)
        except ServiceError as error:
            self._ended_by = error

    async def _accept(self, message: pb.EmbedStreamRequest, amount: int, tasks: asyncio.TaskGroup) -> None:
        """Answer a message at once if its vectors are in memory, or start to as soon as there is room for its bytes."""
        start = perf_counter()
        image = image_of(message.image, self._limits.max_image_bytes)
        digests = self._intake.digests([image], Timings())
        answer = self._known(digests) if digests else None
        if answer is None:
            await self._take(message, image, digests, amount, tasks)
        else:
            # No task, no budget: nothing is waited for but the caller, who is to read before more is read from it.
            self._answering = True
            await self._write(answer, message.id, start)
            self._answering = False

    def _known(self, digests: Sequence[str]) -> pb.EmbedStreamResponse | None:
        try:
            embedded = self._intake.cached(self._asked.request, digests, Timings())
            return None if embedded is None else self._response(embedded)
        except ServiceError:
            return None  # it is told on the long way, which may find it mended

    async def _take(
        self,
        message: pb.EmbedStreamRequest,
        image: Image,
        digests: Sequence[str] | None,
        amount: int,
        tasks: asyncio.TaskGroup,
    ) -> None:
        """Start to answer a message as soon as there is room for its bytes."""
        held = ExitStack()
        refused = None

        async def hold() -> None:
            held.enter_context(holding(self._intake, self._call.caller, amount))

        try:
            await hold()
        except Overloaded:
            try:
                await self._patience.until_done(hold, self._call.allowed(self._intake.deadline))
            except ServiceError as error:
                refused = error
        tasks.create_task(self._answer(message.id, image, digests, held, refused))

    async def _answer(
        self,
        name: str,
        image: Image,
        digests: Sequence[str] | None,
        held: ExitStack,
        refused: ServiceError | None,
    ) -> None:
        start = perf_counter()
        with held:
            answer = await self._answered(image, digests) if refused is None else self._fault(refused)
            del image
        await self._write(answer, name, start)

    async def _write(self, answer: pb.EmbedStreamResponse, name: str, start: float) -> None:
        """Write an image's answer, and give its place back."""
        answer.id = name
        async with self._writing:
            await self._call.context.write(answer.SerializeToString())
        self._calls.image_answered(self._call, answer.result.error.code, perf_counter() - start)
        self._places.release()

    async def _answered(self, image: Image, digests: Sequence[str] | None) -> pb.EmbedStreamResponse:
        try:
            return await self._embedded(image, digests)
        except ServiceError as error:
            return self._fault(restated(error, str(error).removeprefix(_ALONE)))
        except grpc.aio.BaseError:
            raise
        except Exception:  # noqa: BLE001, one image must not end the stream; all of it goes into the log
            return pb.EmbedStreamResponse(result=pb.ImageResult(error=self._calls.broke(self._call)))

    def _fault(self, error: ServiceError) -> pb.EmbedStreamResponse:
        return pb.EmbedStreamResponse(result=pb.ImageResult(error=self._calls.failed(error, self._call)))

    async def _embedded(self, image: Image, digests: Sequence[str] | None) -> pb.EmbedStreamResponse:
        own = self._call.caller.images if self._call.caller else None
        embedded = await self._patience.until_done(
            lambda: self._intake.embed(self._asked.request, [image], Timings(), own=own, digests=digests),
            self._call.allowed(self._intake.deadline),
        )
        return self._response(embedded)

    def _response(self, embedded: Embedded) -> pb.EmbedStreamResponse:
        (result,) = results(embedded, self._asked, 1)
        return pb.EmbedStreamResponse(model=version_of(embedded.card), result=result)
