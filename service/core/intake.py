"""The way in that all transports share: check, hold budgets, fetch images, embed, and give errors their place."""

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial

from microtome.errors import BadRequest, ModelNotReady, NoImageEmbedded, ServiceError
from microtome.regions import Region
from service.core.admission import Budget
from service.core.embedder import Embedder, of_regions
from service.core.lookup import Lookup
from service.core.ports import ModelServer, Observer
from service.core.remote_images import Arrived, Fetch, Image, Text, Url
from service.core.requests import ALL, Embedded, EmbedRequest, ImageError, placed, takes_no_texts
from service.core.timings import Timings, timed
from service.core.vectors import checked_dimensions, require_maps, require_quantization
from service.core.zero_shot import ZeroShot, require_towers

_NOTHING = nullcontext()


@dataclass(frozen=True, slots=True)
class Intake:
    """What every transport calls: check, hold budgets, fetch, embed, and give each image's error its place.

    Attributes:
        fetch: fetches images by address.
        bodies: bytes of images in flight, of all transports together.
        bulk_bodies: those of bulk requests; None bounds them no further.
        fetched_bytes: the most that fetched images of one request may have, held while they are fetched.
        default_model: used when a request names no model; empty where the only model is meant.
        deadline: the most seconds that a request may take.
        required: models without which the gateway is not ready.
        cache_answers: whether a cache is there that can be asked.
        zero_shot: compares images with labels, for requests that bring some.
    """

    embedder: Embedder
    models: ModelServer
    fetch: Fetch
    bodies: Budget
    fetched_bytes: int
    observer: Observer
    default_model: str
    deadline: float
    required: Collection[str] = ()
    cache_answers: Callable[[], bool] = lambda: True
    bulk_bodies: Budget | None = None
    zero_shot: ZeroShot = field(default_factory=ZeroShot)

    def ready(self) -> bool:
        """Whether anything can be answered: by a model, or from the cache for a model that has been known.

        Without one of the models that are required, nothing counts.
        """
        troubles = self.troubles()
        if any(troubles[name] is not None for name in self.required):
            return False
        if any(trouble is None for trouble in troubles.values()):
            return True
        return self.cache_answers() and any(card is not None for card in self.models.cards().values())

    def troubles(self) -> dict[str, str | None]:
        """Return what is wrong with each model, None for nothing; also with one that is required and not there."""
        return {**dict.fromkeys(self.required, "No model server has it."), **self.models.readiness()}

    def check(
        self, request: EmbedRequest, *, dimensions: int | None, normalize: bool, int8: bool, heat: bool = False
    ) -> None:
        """Refuse, before any work, what the model's outputs do not have.

        Args:
            request: which model and outputs.
            dimensions: how many numbers of each vector are asked for, None for all.
            normalize: whether vectors shall have the length 1.
            int8: whether they shall be written by calibrated ranges.
            heat: whether the activity at each position of a map is asked for.

        Raises:
            BadRequest: a cut longer than a vector; int8 of an output without ranges, or of normalised vectors; heat of
                an output without a map.
            ServiceError: the model cannot be asked now; it cannot be asked for labels.
        """
        if request.candidates is not None:
            require_towers(request, self.models.towers(request.model))
        if int8 and normalize:
            raise BadRequest(
                "Expected int8 without `normalize`: its ranges are those of vectors as the model makes them."
            )
        if dimensions is None and not int8 and not heat:
            return
        card = self.models.card(request.model)
        names = request.outputs if request.outputs and request.outputs != (ALL,) else tuple(card.outputs)
        names = names if request.outputs else (card.manifest.default_output,)
        outputs = [card.outputs[name] for name in names if name in card.outputs]
        checked_dimensions(dimensions, outputs)
        if int8:
            require_quantization(outputs)
        if heat:
            require_maps(outputs)

    def require_texts(self, model: str) -> None:
        """Refuse texts for a model that takes none, before any work.

        Raises:
            UnsupportedModality: it has no text tower.
            ServiceError: the model cannot be asked now.
        """
        towers = self.models.towers(model)
        if towers.text is None:
            raise takes_no_texts(towers.of("Text"))

    def digests(
        self, images: Sequence[Image], timings: Timings, tenant: str = "", regions: Sequence[Region] = ()
    ) -> list[str] | None:
        """Hash images now, for a tenant; None when one has not arrived, or is large enough to be worth a thread."""
        if not images or not all(isinstance(image, bytes) for image in images):
            return None
        arrived: Sequence[bytes] = images  # type: ignore[assignment]  # all are bytes
        if not regions:
            return self.embedder.digests(arrived, timings, tenant)
        files = {id(image): image for image in arrived}
        found = self.embedder.digests(list(files.values()), timings, tenant)
        return None if found is None else of_regions(dict(zip(files, found, strict=True)), arrived, regions)

    async def embed(  # noqa: PLR0913, one step, with all that is known before
        self,
        request: EmbedRequest,
        images: Sequence[Image],
        timings: Timings,
        *,
        own: Budget | None = None,
        digests: Sequence[str] | None = None,
        lookup: Lookup | None = None,
        regions: Sequence[Region] = (),
    ) -> Embedded:
        """Embed the images that have arrived whole, and return the others' errors with them.

        Args:
            request: which model, outputs and options.
            images: as they came, at least one.
            timings: told how long the stages took.
            own: the budget of the caller's key, in images.
            digests: of the images for the request's tenant, when they are known already.
            lookup: a lookup in all tiers, when it has been done already.
            regions: of each image; none where all of each is wanted. Each counts as an image.

        Raises:
            ServiceError: any leaf of the tree; what is wrong with one image begins with "Image 3: ".
        """
        if request.candidates is not None:
            return await self.zero_shot.classified(
                request,
                images,
                partial(self.models.towers, request.model),
                partial(self.embed, images=images, timings=timings, own=own, digests=digests, regions=regions),
                partial(self._embed_texts, timings=timings, own=own),
            )
        with own.hold(len(images)) if own is not None else _NOTHING, self._share(request, images):
            if not any(isinstance(image, Url) for image in images):
                arrived: Sequence[Arrived] = images  # type: ignore[assignment]  # no addresses
                return await self._embedded(request, arrived, timings, digests, lookup, regions)
            with self.bodies.hold(self.fetched_bytes):
                with timed(timings.stage, "fetch"):
                    # An address with several regions is fetched once.
                    files = {id(image): image for image in images}
                    fetched = dict(zip(files, await self.fetch(list(files.values())), strict=True))
                arrived = [fetched[id(image)] for image in images]
                return await self._embedded(request, arrived, timings, digests, lookup, regions)

    async def _embed_texts(
        self, request: EmbedRequest, texts: Sequence[Text], timings: Timings, own: Budget | None
    ) -> Embedded:
        """Embed any number of texts, as many at a time as a request may have, by one version of a text tower."""
        most = self.embedder.max_images
        found = [
            await self.embed(request, texts[start : start + most], timings, own=own)
            for start in range(0, len(texts), most)
        ]
        if len({one.card.manifest.fingerprint for one in found}) > 1:
            raise ModelNotReady(f"The text tower of model {request.model!r} is being replaced. Try again in a moment.")
        return replace(found[0], embeddings=[embedding for one in found for embedding in one.embeddings])

    def _share(self, request: EmbedRequest, images: Sequence[Image]) -> AbstractContextManager[None]:
        """Hold the bytes of a bulk request, which have arrived or will be fetched, in its share of them."""
        if not request.bulk or self.bulk_bodies is None:
            return _NOTHING
        sizes = (
            len(image) if isinstance(image, bytes) else len(image.text) if isinstance(image, Text) else 0
            for image in images
        )
        fetched = any(isinstance(image, Url) for image in images)
        return self.bulk_bodies.hold(sum(sizes) + fetched * self.fetched_bytes)

    async def _embedded(  # noqa: PLR0913, PLR0917, one step, with all that is known before
        self,
        request: EmbedRequest,
        images: Sequence[Arrived],
        timings: Timings,
        digests: Sequence[str] | None,
        lookup: Lookup | None,
        regions: Sequence[Region],
    ) -> Embedded:
        bad = {index: image for index, image in enumerate(images) if isinstance(image, ServiceError)}
        if bad and request.on_error == "fail":
            index, error = next(iter(bad.items()))
            raise placed(error, index)
        good = {index: image for index, image in enumerate(images) if isinstance(image, bytes | Text)}
        errors = [ImageError(index, placed(error, index)) for index, error in bad.items()]
        if bad and not good:
            raise NoImageEmbedded({e.index: e.error for e in errors})
        parts = [regions[index] for index in good] if regions else ()
        places = list(good) if bad else None
        embedded = await self.embedder.embed(request, list(good.values()), timings, digests, lookup, parts, places)
        if errors:
            # Those that never reached the core.
            embedded = replace(embedded, errors=sorted([*embedded.errors, *errors], key=lambda e: e.index))
        if not embedded.embeddings:
            raise NoImageEmbedded({e.index: e.error for e in embedded.errors})
        return embedded
