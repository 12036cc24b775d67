"""Compute one image's vectors: decode in a thread, infer, store."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from service.embedding.backlog import Backlog
from service.embedding.flights import Made
from service.embedding.images import decode
from service.embedding.keys import vector_key
from service.embedding.manifest import ModelCard
from service.embedding.ports import ModelServer, Pixels, VectorCache
from service.embedding.stopwatch import Stages, timed


class Computing:
    """Decodes at most as many images at a time as there are threads."""

    def __init__(
        self,
        models: ModelServer,
        cache: VectorCache,
        decoders: ThreadPoolExecutor,
        backlog: Backlog,
        *,
        max_pixels: int,
    ) -> None:
        self._models = models
        self._cache = cache
        self._decoders = decoders
        self._backlog = backlog
        self._max_pixels = max_pixels

    async def vectors(  # noqa: PLR0913, the parts of one job
        self, card: ModelCard, outputs: Sequence[str], digest: str, encoded: bytes, *, store: bool, stages: Stages
    ) -> Made:
        """Return one image's vectors by output, each float32 [D].

        Args:
            card: the version to ask.
            outputs: which of its outputs.
            digest: of the encoded image.
            encoded: the image's file.
            store: whether the cache is told.
            stages: is told how long decoding, waiting for a place in a batch and inference took.

        Raises:
            ServiceError: any leaf of the tree but those of the request's form.
        """
        with self._backlog.place():
            with timed(stages, "decode"):
                pixels = await self._decode(card, encoded)
            answer = await self._models.infer(card, outputs, [pixels], stages)
        made = {name: answer[name][0] for name in outputs}
        if store:
            await self._cache.put_many(
                {
                    vector_key(card.manifest.fingerprint, name, digest): vector.astype("<f4", copy=False).tobytes()
                    for name, vector in made.items()
                }
            )
        return made

    async def _decode(self, card: ModelCard, encoded: bytes) -> Pixels:
        work = partial(decode, encoded, card.manifest.input, max_pixels=self._max_pixels)
        return await asyncio.get_running_loop().run_in_executor(self._decoders, work)
