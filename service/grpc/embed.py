"""Embed: images in, vectors out, all in one message each."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from microtome.v1 import embedding_pb2 as pb
from service.auth import Caller
from service.core.embedder import Intake
from service.core.timeouts import within
from service.core.timings import Timings, timed
from service.errors import BadRequest, TooManyImages
from service.grpc.encoding import field, results, version_of
from service.grpc.images import CallLimits, image_of, parsed
from service.grpc.middleware import Call
from service.grpc.options import read_options

_MODEL, _RESULTS = pb.EmbedResponse.MODEL_FIELD_NUMBER, pb.EmbedResponse.RESULTS_FIELD_NUMBER


@dataclass(frozen=True, slots=True)
class Embed:
    """The method's collaborators."""

    intake: Intake
    limits: CallLimits

    async def __call__(self, call: Call) -> bytes:
        """Embed the images of one request with one version of one model.

        Raises:
            ServiceError: any leaf of the tree.
        """
        async with within(call.allowed(self.intake.deadline)):
            raw = await call.read()
            if raw is None:
                raise BadRequest("Expected an EmbedRequest, received the call's end.")
            with holding(self.intake, call.caller, len(raw)):
                return await self._answered(call, parsed(pb.EmbedRequest, raw))

    async def _answered(self, call: Call, request: pb.EmbedRequest) -> bytes:
        asked = read_options(request.options, self.intake.default_model)
        if not request.images:
            raise BadRequest("Expected at least one image, received none.")
        if len(request.images) > self.limits.max_images:
            raise TooManyImages(
                f"Expected at most {self.limits.max_images} images a request, received {len(request.images)}."
            )
        images = [image_of(image, self.limits.max_image_bytes) for image in request.images]
        self.intake.check(
            asked.request, dimensions=asked.dimensions, normalize=asked.normalize, int8=asked.dtype == "int8"
        )
        call.facts.update(images=len(images), model=asked.request.model[:80])
        timings = Timings(self.intake.observer.stage)
        own = call.caller.images if call.caller else None
        embedded = await self.intake.embed(asked.request, images, timings, own=own)
        with timed(timings.stage, "encode"):
            answered = [field(_RESULTS, result) for result in results(embedded, asked, len(images))]
            return b"".join((field(_MODEL, version_of(embedded.card)), *answered))


@contextmanager
def holding(intake: Intake, caller: Caller | None, amount: int) -> Iterator[None]:
    """Hold a message's bytes in the server's budget, and in the caller's own, while the block runs.

    Raises:
        Overloaded: there is no room in one of them.
    """
    with intake.bodies.hold(amount):
        if caller is None or caller.bodies is None:
            yield
            return
        with caller.bodies.hold(amount):
            yield
