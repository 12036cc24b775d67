"""The method Embed, and how messages with images are read and bounded; the other methods use that too."""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from microtome.errors import BadRequest, ImageTooLarge, TooManyImages
from microtome.v1 import embedding_pb2 as pb
from service.auth import Caller, asked_by
from service.core.embedder import Intake
from service.core.remote_images import Image, Url
from service.core.requests import Embedded, EmbedRequest
from service.core.timeouts import within
from service.core.timings import Timings, timed
from service.grpc.encoding import field, read_options, results, version_of
from service.grpc.middleware import Call

M = TypeVar("M", bound=Message)

_MODEL, _RESULTS = pb.EmbedResponse.MODEL_FIELD_NUMBER, pb.EmbedResponse.RESULTS_FIELD_NUMBER


@dataclass(frozen=True, slots=True)
class CallLimits:
    """Bytes of one encoded image and of one message, images of one request, images in flight in one stream."""

    max_image_bytes: int
    max_message_bytes: int
    max_images: int
    stream_images: int

    @property
    def grouped_images(self) -> int:
        """Images of one message of a stream: half of those in flight, to read one while answering another."""
        return max(1, min(self.max_images, self.stream_images // 2))

    @property
    def grouped_bytes(self) -> int:
        """Bytes of several images of one message of a stream: more would save nothing, and take memory."""
        return min(1 << 20, self.max_message_bytes)


def parsed(kind: type[M], raw: bytes) -> M:
    """Read a message.

    Raises:
        BadRequest: the bytes are no such message.
    """
    try:
        return kind.FromString(raw)
    except DecodeError:
        name = kind.DESCRIPTOR.full_name
        raise BadRequest(f"Expected a {name}, received {len(raw)} bytes that are none.") from None


def image_of(message: pb.Image, max_bytes: int) -> Image:
    """Return the image of a message, or what is wrong with it, which may concern this image only."""
    if message.WhichOneof("source") == "url":
        return Url(message.url)
    data = message.data
    if not data:
        return BadRequest("Expected an image with `data` or `url`, received one with neither.")
    if len(data) > max_bytes:
        return ImageTooLarge(f"Expected at most {max_bytes} bytes an image, received {len(data)}.")
    return data


async def embed(intake: Intake, limits: CallLimits, call: Call) -> bytes:
    """Embed the images of one request with one version of one model.

    Raises:
        ServiceError: any leaf of the tree.
    """
    async with received(call, intake, pb.EmbedRequest) as request:
        asked = read_options(request.options, intake.default_model)
        if not request.images:
            raise BadRequest("Expected at least one image, received none.")
        if len(request.images) > limits.max_images:
            raise TooManyImages(
                f"Expected at most {limits.max_images} images a request, received {len(request.images)}."
            )
        images = [image_of(image, limits.max_image_bytes) for image in request.images]
        intake.check(asked.request, dimensions=asked.dimensions, normalize=asked.normalize, int8=asked.dtype == "int8")
        embedded = await embedded_for(call, intake, asked.request, images)
        with timed(intake.observer.stage, "encode"):
            answered = [field(_RESULTS, result) for result in results(embedded, asked, len(images))]
            return b"".join((field(_MODEL, version_of(embedded.card)), *answered))


@asynccontextmanager
async def received(call: Call, intake: Intake, kind: type[M]) -> AsyncIterator[M]:
    """Read the only message of a call; its bytes are held and the call's time runs while the block does.

    Raises:
        BadRequest: there is no message, or another one.
        Overloaded: there is no room for its bytes, or its key has used up its minute.
        DeadlineExceeded: the block took too long.
    """
    if call.caller and call.caller.rate:
        call.caller.rate.require()
    async with within(call.allowed(intake.deadline)):
        raw = await call.read()
        if raw is None:
            raise BadRequest(f"Expected a {kind.DESCRIPTOR.full_name}, received the call's end.")
        with holding(intake, call.caller, len(raw)):
            yield parsed(kind, raw)


async def embedded_for(call: Call, intake: Intake, request: EmbedRequest, images: Sequence[Image]) -> Embedded:
    """Embed images for a call: within what its key may do, and noted for the access log.

    Raises:
        ServiceError: any leaf of the tree.
    """
    call.facts.update(images=len(images), model=request.model[:80])
    own = call.caller.images if call.caller else None
    if call.caller and call.caller.rate:
        await call.caller.rate.take(len(images))
    return await intake.embed(asked_by(call.caller, request), images, Timings(intake.observer.stage), own=own)


@contextmanager
def holding(intake: Intake, caller: Caller | None, amount: int) -> Iterator[None]:
    """Hold a message's bytes in the server's budget, and in the caller's own, while the block runs.

    Raises:
        Overloaded: there is no room in one of them.
    """
    own = caller.bodies.hold(amount) if caller and caller.bodies else nullcontext()
    with intake.bodies.hold(amount), own:
        yield
