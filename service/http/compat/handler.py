"""What all contracts of others share between their own way of asking and their own way of answering."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import perf_counter

from starlette.requests import Request
from starlette.responses import Response

from service.auth import Caller
from service.core.embedder import Intake
from service.core.ports import Observer
from service.core.remote_images import Image
from service.core.requests import Embedded, EmbedRequest
from service.core.timeouts import within
from service.core.timings import Timings, timed
from service.core.vectors import checked_dimensions
from service.errors import BadRequest, TooManyImages
from service.http.access import note
from service.http.bodies import BodyLimits, BodyReader
from service.http.disconnects import CallerGone, Callers, allowed
from service.http.responses import in_header

_CLIENT_CLOSED_REQUEST = 499
"""nginx's, for the metrics; nobody receives it."""


@dataclass(frozen=True, slots=True)
class Question:
    """A request of another contract in the core's words, and how its answer is written.

    Attributes:
        request: model, outputs and options.
        images: at least one.
        answer: writes the vectors as the contract has it. They are raw: cutting and normalising is its affair.
        dimensions: how many numbers of each vector are asked for; checked before any work.
        normalize: whether vectors shall have the length 1.
        int8: whether they shall be written by calibrated ranges; checked before any work.
        aside: whether the answer is written in a thread, since it looks at the images and others would wait for it.
    """

    request: EmbedRequest
    images: Sequence[Image]
    answer: Callable[[Embedded], Response]
    dimensions: int | None = None
    normalize: bool = False
    int8: bool = False
    aside: bool = False


@dataclass(frozen=True, slots=True)
class Desk:
    """Serves a contract's requests with the same limits, budgets and deadlines as our own.

    Attributes:
        intake: the way to the core, and what is served.
        reader: reads bodies within limits.
        observer: is told how long the stages take.
    """

    intake: Intake
    reader: BodyReader
    observer: Observer
    _callers: Callers = field(default_factory=Callers, init=False)

    @property
    def limits(self) -> BodyLimits:
        """Bytes and images that a request may have."""
        return self.reader.limits

    async def serve(self, request: Request, read: Callable[[bytes], Question]) -> Response:
        """Read a request's body, ask the core, and write its answer.

        Args:
            request: its body is read here, whatever its Content-Type says.
            read: translates the body; it raises leaves of the error tree.

        Raises:
            ServiceError: any leaf; the application words it as the contract has it.
        """
        try:
            async with within(allowed(request, self.intake.deadline)):
                return await self._served(request, read)
        except CallerGone:
            return Response(status_code=_CLIENT_CLOSED_REQUEST)

    async def _served(self, request: Request, read: Callable[[bytes], Question]) -> Response:
        timings = Timings(self.observer.stage)
        caller: Caller | None = request.scope.get("microtome.caller")
        own = (caller.bodies,) if caller and caller.bodies else ()
        start = perf_counter()
        async with self.reader.whole(request, *own) as body:
            timings.stage("read", perf_counter() - start)
            question = read(body)
            asked, images = question.request, question.images
            self._check(question)
            note(request.scope, images=len(images), model=asked.model[:80])
            with self._callers.waiting(request.receive):
                embedded = await self.intake.embed(asked, images, timings, own=caller.images if caller else None)
        # Once more, since the version that answered may not be the one that was looked at.
        checked_dimensions(question.dimensions, [embedded.card.outputs[e.output] for e in embedded.embeddings[:64]])
        with timed(timings.stage, "encode"):
            response = (
                await asyncio.to_thread(question.answer, embedded) if question.aside else question.answer(embedded)
            )
        card = embedded.card
        response.headers["X-Model"] = in_header(card.name)
        response.headers["X-Model-Version"] = str(card.version)
        response.headers["X-Fingerprint"] = card.manifest.fingerprint
        return response

    def _check(self, question: Question) -> None:
        if not question.images:
            raise BadRequest("Expected at least one image, received none.")
        if len(question.images) > self.limits.max_images:
            raise TooManyImages(
                f"Expected at most {self.limits.max_images} images a request, received {len(question.images)}."
            )
        self.intake.check(
            question.request, dimensions=question.dimensions, normalize=question.normalize, int8=question.int8
        )
