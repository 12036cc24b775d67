"""What every transport does between its wire and the core: check, hold, fetch, and put each image's error in its place.

HTTP, gRPC and the contracts of others read their own messages and write their own answers; all of them ask here.
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

from service.core.budget import Budget
from service.core.embedder import Embedder
from service.core.lookup import Lookup
from service.core.ports import ModelServer, Observer
from service.core.remote_images import Fetch, Image, Url
from service.core.requests import ALL, Embedded, EmbedRequest, ImageError
from service.core.timings import Timings, timed
from service.core.vectors import checked_dimensions, require_quantization
from service.errors import BadRequest, NoImageEmbedded, ServiceError, restated

_NOTHING = nullcontext()


@dataclass(frozen=True, slots=True)
class Intake:
    """Takes the images of one request, as they came, to the core.

    Attributes:
        fetch: how images at addresses are had.
        bodies: bytes of images in flight, of all transports together.
        fetched_bytes: the most that fetched images of one request may have, held while they are fetched.
        default_model: who answers when a request names no model.
        deadline: the most seconds that a request may take.
    """

    embedder: Embedder
    models: ModelServer
    fetch: Fetch
    bodies: Budget
    fetched_bytes: int
    observer: Observer
    default_model: str
    deadline: float

    def check(self, request: EmbedRequest, *, dimensions: int | None, normalize: bool, int8: bool) -> None:
        """Refuse, before any work, what the model's outputs do not have.

        Args:
            request: which model and outputs.
            dimensions: how many numbers of each vector are asked for, None for all.
            normalize: whether vectors shall have the length 1.
            int8: whether they shall be written by calibrated ranges.

        Raises:
            BadRequest: a cut longer than a vector; int8 of an output without ranges, or of normalised vectors.
            ServiceError: the model cannot be asked now.
        """
        if int8 and normalize:
            raise BadRequest(
                "Expected int8 without `normalize`: its ranges are those of vectors as the model makes them."
            )
        if dimensions is None and not int8:
            return
        card = self.models.card(request.model)
        names = request.outputs if request.outputs and request.outputs != (ALL,) else tuple(card.outputs)
        names = names if request.outputs else (card.manifest.default_output,)
        outputs = [card.outputs[name] for name in names if name in card.outputs]
        checked_dimensions(dimensions, outputs)
        if int8:
            require_quantization(outputs)

    def digests(self, images: Sequence[Image], timings: Timings) -> list[str] | None:
        """Hash images at once; None when one of them has not arrived, or is large enough to be worth a thread."""
        if not images or not all(isinstance(image, bytes) for image in images):
            return None
        return self.embedder.digests(images, timings)  # type: ignore[arg-type]  # all are bytes

    def cached(self, request: EmbedRequest, digests: Sequence[str], timings: Timings) -> Embedded | None:
        """Answer from the memory cache, if it has everything: without waiting, and so without any budget.

        Raises:
            ServiceError: as `embed` does, of the model and its outputs.
        """
        return self.embedder.cached(request, digests, timings)

    async def embed(  # noqa: PLR0913, one step of the way, with all that was found out before
        self,
        request: EmbedRequest,
        images: Sequence[Image],
        timings: Timings,
        *,
        own: Budget | None = None,
        digests: Sequence[str] | None = None,
        lookup: Lookup | None = None,
    ) -> Embedded:
        """Embed those images that have arrived whole, and put the others' errors beside them.

        Args:
            request: which model, outputs and options.
            images: as they came, at least one.
            timings: is told how long the stages took.
            own: what the caller's key may have in flight, in images.
            digests: of the images, when `digests` has been asked for them.
            lookup: what the cache had of them, when all of it has been asked.

        Raises:
            ServiceError: any leaf of the tree; what is wrong with one image begins with "Image 3: ".
        """
        with own.hold(len(images)) if own is not None else _NOTHING:
            if not any(isinstance(image, Url) for image in images):
                arrived: Sequence[bytes | ServiceError] = images  # type: ignore[assignment]  # no addresses
                return await self._embedded(request, arrived, timings, digests, lookup)
            with self.bodies.hold(self.fetched_bytes):
                with timed(timings.stage, "fetch"):
                    arrived = await self.fetch(images)
                return await self._embedded(request, arrived, timings, digests, lookup)

    async def _embedded(
        self,
        request: EmbedRequest,
        images: Sequence[bytes | ServiceError],
        timings: Timings,
        digests: Sequence[str] | None,
        lookup: Lookup | None,
    ) -> Embedded:
        bad = {index: image for index, image in enumerate(images) if isinstance(image, ServiceError)}
        if bad and request.on_error == "fail":
            index, error = next(iter(bad.items()))
            raise restated(error, f"Image {index}: {error}")
        good = {index: image for index, image in enumerate(images) if isinstance(image, bytes)}
        if bad and not good:
            raise NoImageEmbedded({index: restated(e, f"Image {index}: {e}") for index, e in bad.items()})
        embedded = await self.embedder.embed(request, list(good.values()), timings, digests, lookup)
        merged = _merged(embedded, list(good), bad) if bad else embedded
        if not merged.embeddings:
            raise NoImageEmbedded({e.index: e.error for e in merged.errors})
        return merged


def _merged(embedded: Embedded, indexes: Sequence[int], bad: Mapping[int, ServiceError]) -> Embedded:
    """Give images their places in the request back, where others of it never reached the core."""
    errors = [ImageError(index, restated(error, f"Image {index}: {error}")) for index, error in bad.items()]
    for one in embedded.errors:
        index = indexes[one.index]
        words = str(one.error).removeprefix(f"Image {one.index}: ")
        errors.append(ImageError(index, restated(one.error, f"Image {index}: {words}")))
    embeddings = [replace(e, index=indexes[e.index]) for e in embedded.embeddings]
    return Embedded(embedded.card, embeddings, sorted(errors, key=lambda e: e.index))
