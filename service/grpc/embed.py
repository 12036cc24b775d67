"""The methods Embed and Classify, and how messages with images are read and bounded; the other methods use that too."""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

from microtome.errors import BadRequest, ImageTooLarge, TooManyImages
from microtome.protobuf import BYTES, fields
from microtome.regions import WHOLE, Region, read_region
from microtome.v1 import embedding_pb2 as pb
from service.auth import Caller, asked_by
from service.core.classes import require_classes
from service.core.intake import Intake
from service.core.remote_images import MAX_ADDRESS, Image, Text, Url
from service.core.requests import Embedded, EmbedRequest
from service.core.timeouts import within
from service.core.timings import Timings, timed
from service.errors import shown
from service.grpc.encoding import CallOptions, field, read_options, results, version_of
from service.grpc.middleware import Call

M = TypeVar("M", bound=Message)

_SMALL_BYTES = 8 << 10
"""A message up to this size is parsed as it is: its objects take less than 1 MB."""

_MOST_FIELDS = 5000
_MOST_NUMBERS = 400_000
"""Bytes of numbers in lists: the pixels of a picture of 256 by 256, two bytes each."""

_TEXT = object()

_MODEL, _RESULTS = pb.EmbedResponse.MODEL_FIELD_NUMBER, pb.EmbedResponse.RESULTS_FIELD_NUMBER
_TOWERS = pb.EmbedResponse.TOWERS_FIELD_NUMBER


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
    """Read a message. Fields are counted first: protobuf makes up to 100 bytes of an empty one of two bytes.

    Raises:
        BadRequest: the bytes are no such message, or have more fields or numbers than a request can need.
    """
    try:
        if len(raw) > _SMALL_BYTES:
            _FieldCount().add(raw, 0, len(raw), kind.DESCRIPTOR)
        return kind.FromString(raw)
    except (DecodeError, ValueError):
        name = kind.DESCRIPTOR.full_name
        raise BadRequest(f"Expected a {name}, received {len(raw)} bytes that are none.") from None


@cache
def _kinds(message: Any) -> Mapping[int, Any]:  # noqa: ANN401, its stubs name two types
    """Return the fields of a message that are not text or bytes: messages, and None for numbers."""
    text = (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES)
    return {field.number: field.message_type for field in message.fields if field.type not in text}


class _FieldCount:
    """Counts the fields of a message and of those within it, and the bytes of lists of numbers."""

    def __init__(self) -> None:
        self._fields = 0
        self._numbers = 0

    def add(self, raw: bytes, at: int, end: int, message: Any) -> None:  # noqa: ANN401, as above
        """Count what `raw` has from `at` to `end`.

        Raises:
            BadRequest: there are too many.
            ValueError: this is no message.
        """
        kinds = _kinds(message)
        for number, form, begin, finish in fields(raw, at, end):
            self._fields += 1
            if self._fields > _MOST_FIELDS:
                raise BadRequest(f"Expected at most {_MOST_FIELDS} fields in a message, received more.")
            kind = kinds.get(number, _TEXT)
            if form != BYTES or kind is _TEXT:
                continue
            if kind is not None:
                self.add(raw, begin, finish, kind)
                continue
            self._numbers += finish - begin
            if self._numbers > _MOST_NUMBERS:
                raise BadRequest(f"Expected lists of at most {_MOST_NUMBERS} bytes, received more.")


async def named(call: Call, kind: type[M]) -> M:
    """Read the message of a call that names a model.

    Raises:
        BadRequest: another message, or a longer one than names need.
        BodyTooSlow: it does not come.
    """
    raw = await call.first() or b""
    if len(raw) > _SMALL_BYTES:
        raise BadRequest(f"Expected a message of at most {_SMALL_BYTES} bytes, received {len(raw)}.")
    return parsed(kind, raw)


def image_of(message: pb.Image, max_bytes: int) -> Image:
    """Return the image or text of a message, or what is wrong with it, which may concern this one only."""
    source = message.WhichOneof("source")
    if source == "text":
        return (
            BadRequest("Expected `crops` with an image; received them with a text.")
            if message.crops
            else Text(message.text)
        )
    if source == "url":
        if len(message.url) > MAX_ADDRESS:
            return BadRequest(f"Expected an address of at most {MAX_ADDRESS} characters, received {len(message.url)}.")
        return Url(message.url)
    data = message.data
    if not data:
        return BadRequest("Expected an image with `data`, `url` or `text`, received one with none of them.")
    if len(data) > max_bytes:
        return ImageTooLarge(f"Expected at most {max_bytes} bytes an image, received {len(data)}.")
    return data


def regions_of(message: pb.Image) -> list[Region | BadRequest]:
    """Return the regions of an image that are wanted, or what is wrong with one; all of it if none is named."""
    found: list[Region | BadRequest] = []
    for crop in message.crops:
        given = [crop.x, crop.y, crop.width, crop.height]
        try:
            found.append(read_region(given))
        except ValueError as error:
            found.append(BadRequest(f"Expected a crop to be {error}; received {shown(given)}."))
    return found or [WHOLE]


def _expanded(images: Sequence[pb.Image], limits: CallLimits) -> tuple[list[Image], Sequence[Region]]:
    """Take each region for an image of its own; no regions where all of each image is wanted.

    Raises:
        TooManyImages: more than a request may have.
    """
    count = sum(len(image.crops) or 1 for image in images)
    if count > limits.max_images:
        raise TooManyImages(f"Expected at most {limits.max_images} images a request, received {count}.")
    arrived = [image_of(image, limits.max_image_bytes) for image in images]
    if not any(image.crops for image in images):
        return arrived, ()
    pairs = [(whole, part) for whole, image in zip(arrived, images, strict=True) for part in regions_of(image)]
    return (
        [part if isinstance(part, BadRequest) else whole for whole, part in pairs],
        [WHOLE if isinstance(part, BadRequest) else part for _, part in pairs],
    )


async def embed(
    intake: Intake, limits: CallLimits, call: Call, kind: type[pb.EmbedRequest | pb.ClassifyRequest] = pb.EmbedRequest
) -> bytes:
    """Embed or classify the images of one request with one version of one model; both answers are numbered alike.

    Raises:
        ServiceError: any leaf of the tree.
    """
    async with received(call, intake, kind) as request:
        classes = request.classes if isinstance(request, pb.ClassifyRequest) else None
        asked = read_options(request.options, intake.default_model, classes)
        if not request.images:
            raise BadRequest("Expected at least one image, received none.")
        images, regions = _expanded(request.images, limits)
        # It has the bytes of all images once more.
        del request
        check(intake, asked)
        embedded = await embedded_for(call, intake, asked.request, images, regions)
        with timed(intake.observer.stage, "encode"):
            answered = [field(_RESULTS, result) for result in results(embedded, asked, len(images), regions)]
            versions = [version_of(card) for card in embedded.cards]
            towers = [field(_TOWERS, its) for its in versions] if embedded.card.manifest.family else []
            return b"".join((field(_MODEL, versions[0]), *answered, *towers))


def check(intake: Intake, asked: CallOptions) -> None:
    """Refuse, before any work, what the model's outputs do not have.

    Raises:
        ServiceError: as `Intake.check` does; none of the outputs has classes, where they are asked for.
    """
    intake.check(asked.request, dimensions=asked.dimensions, normalize=asked.normalize, int8=asked.dtype == "int8")
    if asked.classes is not None and asked.request.candidates is None:
        require_classes(intake.models.card(asked.request.model), asked.request.outputs)


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
            # The block takes the images out of the message and drops it: then their bytes are held once.
            messages, raw = [parsed(kind, raw)], None
            yield messages.pop()


async def embedded_for(
    call: Call, intake: Intake, request: EmbedRequest, images: Sequence[Image], regions: Sequence[Region] = ()
) -> Embedded:
    """Embed images for a call: within what its key may do, and noted for the access log.

    Raises:
        ServiceError: any leaf of the tree.
    """
    call.facts.update(images=len(images), model=request.model[:80])
    own = call.caller.images if call.caller else None
    request = asked_by(call.caller, request)
    if call.caller and call.caller.rate:
        await call.caller.rate.take(len(images) + intake.zero_shot.texts(request))
    timings = Timings(intake.observer.stage)
    return await intake.embed(request, images, timings, own=own, regions=regions)


@contextmanager
def holding(intake: Intake, caller: Caller | None, amount: int) -> Iterator[None]:
    """Hold a message's bytes in the server's budget, and in the caller's own, while the block runs.

    Raises:
        Overloaded: there is no room in one of them.
    """
    own = caller.bodies.hold(amount) if caller and caller.bodies else nullcontext()
    with intake.bodies.hold(amount), own:
        yield
