"""Compute one image's vectors: decode in a thread, infer, store; or wait for another gateway that does."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from microtome.manifest import ModelCard
from microtome.preprocessing import decode
from service.core.admission import Backlog
from service.core.aside import aside
from service.core.deadline import Deadline
from service.core.ports import Claims, ModelServer, Pixels, VectorCache, Vectors
from service.core.requests import CacheUse
from service.core.sharing import Sharing, Unclaimed
from service.core.single_flight import Landing, Made
from service.core.timings import Stages, timed
from service.errors import DeadlineExceeded


@dataclass(frozen=True, slots=True)
class Job:
    """One image to compute.

    Attributes:
        card: the version to ask.
        keys: cache keys by the name of the output.
        encoded: the image's file.
        cache: whether other gateways are asked, and the cache told.
        stages: is told how long decoding, waiting for a place in a batch and inference took.
        deadline: when the last who waits gives up.
    """

    card: ModelCard
    keys: Mapping[str, str]
    encoded: bytes
    cache: CacheUse
    stages: Stages
    deadline: Deadline


class Computing:
    """Decodes at most as many images at a time as there are threads."""

    def __init__(  # noqa: PLR0913, collaborators
        self,
        models: ModelServer,
        cache: VectorCache,
        decoders: ThreadPoolExecutor,
        backlog: Backlog,
        *,
        max_pixels: int,
        claims: Claims | None = None,
    ) -> None:
        self._models = models
        self._cache = cache
        self._decoders = decoders
        self._backlog = backlog
        self._max_pixels = max_pixels
        self._sharing = Sharing(claims or Unclaimed())

    async def vectors(self, job: Job) -> Landing:
        """Return one image's vectors by output, each float32 [D].

        Raises:
            ServiceError: any leaf of the tree but those of the request's form.
        """
        compute = partial(self._computed, job)
        if job.cache != "use":
            # Who wants the work done anew does not want what another has done.
            return Landing(await compute(list(job.keys)))
        dims = {name: output.dim for name, output in job.card.outputs.items()}
        return Landing(*await self._sharing.made(job.keys, dims, compute, job.stages))

    async def _computed(self, job: Job, outputs: Sequence[str]) -> Made:
        with self._backlog.place():
            with timed(job.stages, "decode"):
                pixels = await self._decode(job)
            answer = await self._inferred(job, outputs, pixels)
        made = {name: answer[name][0] for name in outputs}
        if job.cache != "bypass":
            await self._cache.put_many(
                {job.keys[name]: vector.astype("<f4", copy=False).tobytes() for name, vector in made.items()}
            )
        return made

    async def _inferred(self, job: Job, outputs: Sequence[str], pixels: Pixels) -> Mapping[str, Vectors]:
        while True:
            until = job.deadline.at
            try:
                return await self._models.infer(job.card, outputs, [pixels], job.stages, job.deadline)
            except DeadlineExceeded:
                # Sent for callers in a hurry; somebody has joined meanwhile who waits longer.
                if job.deadline.at <= until:
                    raise

    async def _decode(self, job: Job) -> Pixels:
        work = partial(decode, job.encoded, job.card.manifest.input, max_pixels=self._max_pixels)
        return await aside(self._decoders, work)
