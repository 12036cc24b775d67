"""A ``PredictRequest`` as it comes: pixels stay where they are, the little around them is read once.

Requests of one caller differ in their pixels alone. So the bytes of the one large tensor are lifted out, the rest, its
**head**, is parsed by protobuf, and a head that is known already is not parsed again. Requests without a large tensor,
and all that look unusual, are protobuf's in one piece.
"""

from dataclasses import dataclass, field

from tensorflow_serving.apis import predict_pb2

from modelserver.signatures import Call, Signature
from modelserver.tensor_types import TYPES
from modelserver.wire_fields import Field, fields, opening

LEAST_LIFTED = 1024
"""Bytes of a tensor from which on it is worth lifting."""

LONGEST_HEAD = 1024
MOST_HEADS = 256
"""Bounds of what is remembered: a head is some 80 bytes, and there are as many as callers have forms of requests."""

_INPUTS, _KEY, _VALUE = 2, 1, 2
_CONTENT = 4
_STRING = 7


@dataclass(slots=True)
class Head:
    """What requests of one kind have in common.

    Attributes:
        message: The request, ``tensorflow.serving.PredictRequest``, but for the bytes lifted out of it. Shared by all
            requests of the kind: nobody may write to it.
        lifted: Alias of the input whose ``tensor_content`` was lifted; None when the message is whole.
        fitted: The signature that this last fitted, and the call that came of it.
    """

    message: predict_pb2.PredictRequest
    lifted: str | None = None
    fitted: tuple[Signature, Call] | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Request:
    """One request.

    Attributes:
        head: All of it but ``content``.
        content: The ``tensor_content`` of the input ``head.lifted``.
    """

    head: Head
    content: memoryview

    @property
    def contents(self) -> dict[str, memoryview]:
        """The bytes that were lifted, by the alias of their input."""
        return {} if self.head.lifted is None else {self.head.lifted: self.content}


class RequestReader:
    """Reads requests, and remembers their heads."""

    def __init__(self) -> None:
        self._heads: dict[tuple[bytes, bytes], Head] = {}
        self._places: dict[int, tuple[int, int]] = {}
        """Where the content was in the last request of so many bytes."""

    def read(self, data: bytes) -> Request:
        """Read one request.

        Args:
            data: A serialised ``tensorflow.serving.PredictRequest``.

        Raises:
            google.protobuf.message.DecodeError: It is none.
        """
        start, end = self._places.get(len(data), (0, 0))
        # What stands before the content ends with its tag and length, so whoever begins alike has it in the same place.
        head = self._heads.get((data[:start], data[end:])) if end else None
        if head is None:
            head, start, end = self._get_to_know(data)
        return Request(head, memoryview(data)[start:end])

    def _get_to_know(self, data: bytes) -> tuple[Head, int, int]:
        """Parse a request and, if it has a head, remember that; returns it, and where the content begins and ends."""
        found = _find_content(data)
        if found is not None:
            start, end, alias, rest = found
            message = predict_pb2.PredictRequest.FromString(rest)
            # Strings have their lengths among their bytes; who sends another type than there are is told so.
            if message.inputs[alias].dtype in TYPES.keys() - {_STRING}:
                head = Head(message, alias)
                if len(self._heads) >= MOST_HEADS:
                    self._heads.clear()
                    self._places.clear()
                self._heads[data[:start], data[end:]] = head
                self._places[len(data)] = start, end
                return head, start, end
        return Head(predict_pb2.PredictRequest.FromString(data)), 0, 0


def _find_content(data: bytes) -> tuple[int, int, str, bytes] | None:
    """Look for the one large ``tensor_content`` among the inputs.

    Returns:
        Where it begins and ends, the alias of its input, and the message without it. None when there is none, or when
        anything around it is not as every writer of protobuf puts it down: twice, or with numbers longer than needed.
    """
    try:
        path, alias = _path_to_content(data)
        entry, value, content = path
    except (ValueError, IndexError):  # IndexError: a number goes beyond the end
        return None
    around = len(data) - (content.end - content.payload)
    if content.end - content.payload < LEAST_LIFTED or around > LONGEST_HEAD:
        return None
    if any(data[f.start : f.payload] != opening(f.number, f.end - f.payload) for f in path):
        return None
    tensor = data[value.payload : content.start] + data[content.end : value.end]
    inner = data[entry.payload : value.start] + opening(_VALUE, len(tensor)) + tensor + data[value.end : entry.end]
    rest = data[: entry.start] + opening(_INPUTS, len(inner)) + inner + data[entry.end :]
    return content.payload, content.end, alias, rest


def _path_to_content(data: bytes) -> tuple[tuple[Field, Field, Field], str]:
    """Find the largest input, its tensor and the content of that; ValueError when one is missing or there twice."""
    entries = [entry for entry in fields(data, 0, len(data)) if entry.number == _INPUTS]
    entry = max(entries, key=lambda entry: entry.end - entry.start)
    key = _only(data, entry, _KEY)
    alias = data[key.payload : key.end]
    if any(other is not entry and alias in data[other.start : other.end] for other in entries):
        raise ValueError("perhaps an input that is there twice, of which protobuf takes the last")
    value = _only(data, entry, _VALUE)
    return (entry, value, _only(data, value, _CONTENT)), alias.decode()


def _only(data: bytes, message: Field, number: int) -> Field:
    """Return the one field of this number; ValueError when there are none or several."""
    (found,) = (part for part in fields(data, message.payload, message.end) if part.number == number)
    return found
