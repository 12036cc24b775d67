"""Write the answers of a stream: those that become ready while a message is written share the next one.

So messages grow while the caller is slow, without a timer, and a single answer is never delayed.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from microtome.v1 import embedding_pb2 as pb
from service.grpc.encoding import field

MAX_MESSAGE_BYTES = 1 << 20
"""Several answers share a message up to this size: a client accepts 4 MB by default."""

_ID, _MORE = pb.EmbedStreamResponse.ID_FIELD_NUMBER, pb.EmbedStreamResponse.MORE_FIELD_NUMBER


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
    """Writes the answers of one stream. For one event loop; no locks."""

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
        for name, body in more:
            pieces += (field(_MORE, name + body),)
        return b"".join(pieces)
