"""Options of a call to a request for the core, vectors to messages, and the messages of a stream.

Options are checked as those of POST /embed are, with the same messages. Vectors are written by hand: with protobuf's
objects it takes seven times as long. All but their numbers is the same for many vectors, and written by protobuf once.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import isfinite
from typing import Any, NamedTuple, cast

import numpy as np

from microtome.errors import BadRequest
from microtome.manifest import ModelCard, OutputSpec
from microtome.protobuf import field_prefix
from microtome.regions import WHOLE, Region
from microtome.v1 import embedding_pb2 as pb
from service.core.classes import TOP_K, ClassOptions, Function, Prediction, predicted
from service.core.requests import (
    CLASSES,
    MOST_OUTPUTS,
    CacheUse,
    Candidates,
    Embedded,
    Embedding,
    EmbedRequest,
    OnError,
    Priority,
    Source,
)
from service.core.vectors import Dtype, checked_dimensions, shaped, written
from service.grpc.errors import described

_DATA = pb.Embedding.DATA_FIELD_NUMBER
_EMBEDDINGS = pb.ImageResult.EMBEDDINGS_FIELD_NUMBER
_CROP, _TOWER = pb.ImageResult.CROP_FIELD_NUMBER, pb.ImageResult.TOWER_FIELD_NUMBER
_PREDICTIONS = pb.ImageResult.PREDICTIONS_FIELD_NUMBER
MAX_MESSAGE_BYTES = 1 << 20
"""Several answers share a message up to this size: a client accepts 4 MB by default."""

_ID, _MORE = pb.EmbedStreamResponse.ID_FIELD_NUMBER, pb.EmbedStreamResponse.MORE_FIELD_NUMBER


@dataclass(frozen=True, slots=True)
class CallOptions:
    """The options of a call: for the core, for the form of the vectors, and for labels, if any are asked for."""

    request: EmbedRequest
    normalize: bool
    dimensions: int | None
    dtype: Dtype
    classes: ClassOptions | None = None


def read_options(options: pb.EmbedOptions, default_model: str, classes: pb.ClassOptions | None = None) -> CallOptions:
    """Read the options of one call.

    Args:
        options: of vectors.
        default_model: for calls that name none.
        classes: options of labels; None where none are asked for.

    Raises:
        BadRequest: a value that does not fit, or that this server does not know.
    """
    if len(options.outputs) > MOST_OUTPUTS:
        raise BadRequest(f"Expected at most {MOST_OUTPUTS} `outputs`, received {len(options.outputs)}.")
    if "" in options.outputs:
        raise BadRequest("Expected `outputs` to be names of outputs, or `all`; received an empty name.")
    candidates = None if classes is None else Candidates.read(classes.labels, classes.templates)
    request = EmbedRequest(
        options.model or default_model,
        _number("version", options.version),
        tuple(dict.fromkeys(options.outputs)) or (() if classes is None or candidates else (CLASSES,)),
        cast("CacheUse", _word("cache", pb.CacheUse, "CACHE_USE_", options.cache) or "use"),
        cast("OnError", _word("on_error", pb.OnError, "ON_ERROR_", options.on_error) or "fail"),
        priority=cast("Priority", _word("priority", pb.Priority, "PRIORITY_", options.priority) or "interactive"),
        candidates=candidates,
    )
    dtype = cast("Dtype", _word("dtype", pb.Dtype, "DTYPE_", options.dtype) or "float32")
    labels = None if classes is None else _class_options(classes)
    return CallOptions(request, options.normalize, _number("dimensions", options.dimensions), dtype, labels)


def _class_options(given: pb.ClassOptions) -> ClassOptions:
    least = given.min_score if given.HasField("min_score") else None
    if least is not None and not isfinite(least):
        raise BadRequest(f"Expected `min_score` to be a number; received {least}.")
    function = cast("Function | None", _word("function", pb.Function, "FUNCTION_", given.function) or None)
    return ClassOptions(_number("top_k", given.top_k) or TOP_K, least, function)


def _number(name: str, value: int) -> int | None:
    if value < 0:
        raise BadRequest(f"Expected `{name}` to be a whole number from 1 up, or 0 for the default; received {value}.")
    return value or None


def _word(name: str, enum: Any, prefix: str, value: int) -> str:  # noqa: ANN401, enums share no type
    """Return the word for a number of an enum, which the core uses too; none for an unspecified one."""
    # An open enum admits numbers of later versions of the contract.
    if value not in enum.values():
        raise BadRequest(f"Expected `{name}` to be one of {', '.join(enum.keys())}; received {value}.")
    return str(enum.Name(value)).removeprefix(prefix).lower() if value else ""


def results(embedded: Embedded, asked: CallOptions, images: int, regions: Sequence[Region] = ()) -> list[bytes]:
    """Write an answer: a serialised `ImageResult` for each of the request's images in their order.

    Args:
        embedded: vectors and errors.
        asked: the options.
        images: how many.
        regions: of each; none where all of each was wanted.

    Raises:
        BadRequest: the version that answered has shorter vectors than requested, or no ranges for int8.
    """
    found = [b""] * images
    if asked.dimensions is not None:
        outputs = {id(output): output for output in map(embedded.output, embedded.embeddings)}
        checked_dimensions(asked.dimensions, list(outputs.values()))
    if embedded.text is not None and asked.dtype == "int8":
        raise BadRequest(
            "Expected a dtype other than int8 for images and texts together: towers have ranges of their own."
        )
    for embedding in embedded.embeddings:
        output = embedded.output(embedding)
        if asked.classes is not None and output.classes:
            found[embedding.index] += _prediction(predicted(embedding, output, asked.classes))
        else:
            found[embedding.index] += _embedding(embedding, asked, output)
    if embedded.card.manifest.family:
        for index, tower in {e.index: embedded.card_of(e).manifest.tower for e in embedded.embeddings}.items():
            found[index] += field(_TOWER, tower.encode())
    for error in embedded.errors:
        found[error.index] = pb.ImageResult(error=described(error.error)).SerializeToString()
    for index, (x, y, width, height) in enumerate(regions):
        if regions[index] != WHOLE:
            found[index] += field(_CROP, pb.Crop(x=x, y=y, width=width, height=height).SerializeToString())
    return found


def version_of(card: ModelCard) -> bytes:
    """Write the version that answered, as a serialised `ModelVersion`."""
    manifest = card.manifest
    tower = manifest.tower if manifest.family else ""
    return _version(card.name, card.version, manifest.fingerprint, tower, manifest.space or "")


def field(number: int, message: bytes) -> bytes:
    """Write a message as a field of another."""
    return field_prefix(number, len(message)) + message


@lru_cache(16)
def _version(name: str, version: int, fingerprint: str, tower: str, space: str) -> bytes:
    made = pb.ModelVersion(name=name, version=version, fingerprint=fingerprint, tower=tower, space=space)
    return made.SerializeToString()


@lru_cache(256)
def _head(output: str, dtype: Dtype, shape: tuple[int, ...], cache: Source) -> bytes:
    """Write all of an `Embedding` but its numbers."""
    return pb.Embedding(
        output=output, dtype=f"DTYPE_{dtype.upper()}", shape=shape, cache=f"CACHE_RESULT_{cache.upper()}"
    ).SerializeToString()


def _embedding(embedding: Embedding, asked: CallOptions, output: OutputSpec) -> bytes:
    cut = shaped(embedding.vector, normalize=asked.normalize, dimensions=asked.dimensions)
    if asked.dtype == "float32":
        data = cut.astype("<f4", copy=False).tobytes()
    else:
        data = written(cut[np.newaxis], asked.dtype, output).tobytes()
    shape = output.shape if asked.dimensions is None else (asked.dimensions,)
    head = _head(embedding.output, asked.dtype, shape, embedding.cache) + field_prefix(_DATA, len(data))
    return b"".join((field_prefix(_EMBEDDINGS, len(head) + len(data)), head, data))


def _prediction(prediction: Prediction) -> bytes:
    labels = [
        pb.Label(name=label.label, id=label.id or "", index=label.index, score=label.score)
        for label in prediction.labels
    ]
    message = pb.Prediction(
        output=prediction.output,
        labels=labels,
        rejected=prediction.rejected,
        cache=f"CACHE_RESULT_{prediction.cache.upper()}",
    )
    return field(_PREDICTIONS, message.SerializeToString())


class Answer(NamedTuple):
    """One image's answer.

    Attributes:
        name: the caller's, of the image.
        body: a serialised `StreamAnswer` without its id.
        code: of its status, 0 when there are vectors.
        start: when its image had arrived, as `perf_counter` counts.
    """

    name: str
    body: bytes
    code: int
    start: float


class StreamWriter:
    """Writes the answers of one stream: those that become ready while a message is written share the next one.

    So messages grow while the caller is slow, without a timer, and a single answer is never delayed. For one event
    loop; no locks.
    """

    def __init__(
        self,
        write: Callable[[bytes], Awaitable[None]],
        written: Callable[[Answer], None],
        *,
        announcing: pb.EmbedStreamResponse | None,
    ) -> None:
        """Write with `write`.

        Args:
            write: returns when there is room for another message.
            written: called with each answer that has been written.
            announcing: how much the caller may put into a message, sent with the first answer; None for a caller that
                reads one answer a message.
        """
        self._write = write
        self._written = written
        self._several = announcing is not None
        self._announced = announcing.SerializeToString() if announcing else b""
        self._ready: deque[Answer] = deque()
        self._writing = False

    @property
    def busy(self) -> bool:
        """Whether a message is being written, for which the caller has to read."""
        return self._writing

    async def put(self, answers: Sequence[Answer]) -> None:
        """Write answers, or leave them to the call that is writing already."""
        self._ready.extend(answers)
        if self._writing:
            return
        self._writing = True
        try:
            while self._ready:
                together = self._next()
                await self._write(self._message(together))
                for answer in together:
                    self._written(answer)
        finally:
            self._writing = False

    def _next(self) -> list[Answer]:
        found = [self._ready.popleft()]
        size = len(found[0].body)
        while self._several and self._ready and (size := size + len(self._ready[0].body)) <= MAX_MESSAGE_BYTES:
            found.append(self._ready.popleft())
        return found

    def _message(self, answers: Sequence[Answer]) -> bytes:
        first, *more = ((field(_ID, answer.name.encode()), answer.body) for answer in answers)
        pieces = [self._announced, *first]
        self._announced = b""
        return b"".join((*pieces, *(field(_MORE, name + body) for name, body in more)))
