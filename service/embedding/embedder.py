"""From encoded images to vectors: hash, ask the cache, decode what is missing, infer, store.

The order is the design: nothing is decoded before the cache has been asked, and a request is answered by exactly one
version of one model. Nothing blocks the event loop: decoding runs in threads, everything else waits on sockets.
"""

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from service.embedding.budget import Budget
from service.embedding.images import decode
from service.embedding.keys import image_digest, vector_key
from service.embedding.manifest import ModelCard
from service.embedding.ports import ModelServer, Observer, VectorCache, Vectors
from service.embedding.stopwatch import timed
from service.errors import BadRequest, ModelNotReady, RequestRejected, TooManyImages, UnknownOutput, unknown

_HASH_OFF_LOOP_BYTES = 1 << 20
"""Hashing more than this (0.6 ms) is worth a thread switch; hashlib releases the interpreter."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may ask for."""

    max_images: int
    max_pixels: int


@dataclass(frozen=True, slots=True)
class Embedding:
    """One image's vector from one output; `vector` is float32 [D], read-only."""

    index: int
    output: str
    vector: Vectors
    cached: bool


@dataclass(frozen=True, slots=True)
class Embedded:
    """The answer to one request: every vector from the same version of the same model."""

    card: ModelCard
    embeddings: list[Embedding]


class Embedder:
    """Answers requests for embeddings over a model server and a cache."""

    def __init__(  # noqa: PLR0913, collaborators
        self,
        models: ModelServer,
        cache: VectorCache,
        *,
        limits: Limits,
        budget: Budget,
        decoders: ThreadPoolExecutor,
        observer: Observer,
    ) -> None:
        self._models = models
        self._cache = cache
        self._limits = limits
        self._budget = budget
        self._decoders = decoders
        self._observer = observer

    async def embed(self, model: str, outputs: Sequence[str], images: Sequence[bytes]) -> Embedded:
        """Embed images with one version of one model.

        Args:
            model: its name.
            outputs: names of its outputs; none means its default output.
            images: encoded, at least one.

        Returns:
            The vectors in the order of the images, and for one image in the order of `outputs`.

        Raises:
            ServiceError: any leaf of the tree; one bad image fails the request, and the message says which.
        """
        if not images:
            raise BadRequest("Expected at least one image, received none.")
        if len(images) > self._limits.max_images:
            raise TooManyImages(f"Expected at most {self._limits.max_images} images a request, received {len(images)}.")
        with self._budget.hold(len(images)):
            digests = await self._digests(images)
            card = self._models.card(model)
            try:
                return await self._answer(card, outputs, digests, images)
            except ModelNotReady:
                # Unloaded between two looks at the server. Its successor answers the whole request, so that no answer
                # mixes two versions.
                successor = await self._models.renewed(card)
                if successor == card:
                    raise
                return await self._answer(successor, outputs, digests, images)

    async def _answer(
        self, card: ModelCard, outputs: Sequence[str], digests: Sequence[str], images: Sequence[bytes]
    ) -> Embedded:
        names = _resolve(outputs, card)
        wanted = [(digest, name) for digest in digests for name in names]
        found = await self._cached(card, wanted)
        missing = [pair for pair in dict.fromkeys(wanted) if pair not in found]
        # The first of equal images stands for all of them.
        first = dict(zip(reversed(digests), reversed(list(enumerate(images))), strict=True))
        made = await self._compute(card, missing, first)
        self._observer.vectors_answered(card.name, hits=len(wanted) - len(missing), misses=len(missing))
        vectors = found | made
        embeddings = [
            Embedding(index, name, vectors[digest, name], (digest, name) in found)
            for index, digest in enumerate(digests)
            for name in names
        ]
        return Embedded(card, embeddings)

    async def _digests(self, images: Sequence[bytes]) -> list[str]:
        with timed(self._observer, "hash"):
            return [
                await asyncio.to_thread(image_digest, image)
                if len(image) > _HASH_OFF_LOOP_BYTES
                else image_digest(image)
                for image in images
            ]

    async def _cached(self, card: ModelCard, wanted: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Vectors]:
        pairs = list(dict.fromkeys(wanted))
        keys = [vector_key(card.manifest.fingerprint, name, digest) for digest, name in pairs]
        with timed(self._observer, "cache"):
            values = await self._cache.get_many(keys)
        dims = {name: output.dim for name, output in card.outputs.items()}
        # A value of the wrong length is no answer, whoever wrote it.
        return {
            pair: np.frombuffer(value, "<f4")
            for pair, value in zip(pairs, values, strict=True)
            if value is not None and len(value) == 4 * dims[pair[1]]
        }

    async def _compute(
        self, card: ModelCard, missing: Sequence[tuple[str, str]], images: Mapping[str, tuple[int, bytes]]
    ) -> dict[tuple[str, str], Vectors]:
        """Decode and infer. Images that miss the same outputs share a call, so nothing is computed in vain."""
        lacking: dict[str, list[str]] = {}
        for digest, name in missing:
            lacking.setdefault(digest, []).append(name)
        groups: dict[tuple[str, ...], list[str]] = {}
        for digest, names in lacking.items():
            groups.setdefault(tuple(names), []).append(digest)
        made: dict[tuple[str, str], Vectors] = {}
        for lacked, digests in groups.items():
            for start in range(0, len(digests), card.manifest.max_batch_size):
                batch = digests[start : start + card.manifest.max_batch_size]
                made |= await self._infer(card, lacked, {digest: images[digest] for digest in batch})
        if made:
            keys = {
                vector_key(card.manifest.fingerprint, name, d): v.astype("<f4").tobytes()
                for (d, name), v in made.items()
            }
            await self._cache.put_many(keys)
        return made

    async def _infer(
        self, card: ModelCard, names: Sequence[str], images: Mapping[str, tuple[int, bytes]]
    ) -> dict[tuple[str, str], Vectors]:
        with timed(self._observer, "decode"):
            pixels = np.stack(await self._decode(card, list(images.values())))
        with timed(self._observer, "infer"):
            vectors = await self._models.infer(card, names, pixels)
        return {(digest, name): vectors[name][row] for row, digest in enumerate(images) for name in names}

    async def _decode(self, card: ModelCard, images: Sequence[tuple[int, bytes]]) -> list[np.ndarray]:
        loop = asyncio.get_running_loop()

        def one(index: int, encoded: bytes) -> np.ndarray:
            try:
                return decode(encoded, card.manifest.input, max_pixels=self._limits.max_pixels)
            except RequestRejected as error:
                raise type(error)(f"Image {index}: {error}") from error

        jobs = [loop.run_in_executor(self._decoders, one, index, encoded) for index, encoded in images]
        try:
            return await asyncio.gather(*jobs)
        except BaseException:
            for job in jobs:
                job.cancel()
            raise


def _resolve(outputs: Sequence[str], card: ModelCard) -> list[str]:
    if not outputs:
        return [card.manifest.default_output]
    for name in outputs:
        if name not in card.outputs:
            raise UnknownOutput(unknown(f"output of model {card.name!r}", name, card.outputs))
    return list(dict.fromkeys(outputs))
