"""BentoML: a service that decodes before a service that batches, as its documentation has it for requests of one image.

https://docs.bentoml.com/en/latest/get-started/adaptive-batching.html; run by `bentoml serve`.
"""

from typing import Any

import bentoml
import numpy as np
from pixels import MAX_BATCH, answer, decoder, network
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

QUIET = {"access": {"enabled": False}}
"""No access log, as with the other contestants."""
LASTING = {"max_requests": 1_000_000_000, "max_age": 1e9}
"""By default the connections to another service are closed after 100 requests, those under way on them included, which
callers get to see as 500 (BentoML 1.4.39)."""


@bentoml.service(workers=1, traffic={"timeout": 60}, logging=QUIET, runner_connection=LASTING)
class Infer:
    """Pixels to vectors, in batches."""

    def __init__(self) -> None:
        self.network = network()

    # With the default of max_latency_ms, a minute: what the dispatcher expects to take longer it refuses with 503.
    @bentoml.api(batchable=True, max_batch_size=MAX_BATCH)
    def infer(self, images: np.ndarray) -> np.ndarray:
        """Run the network."""
        vectors: np.ndarray = self.network(images)
        return vectors


async def embed(request: Request) -> Response:
    """One image in, one vector out."""
    service: Any = bentoml.get_current_service()
    pixels = await run_in_threadpool(service.decode, await request.body())
    vectors = await service.infer.to_async.infer(pixels[None])
    return Response(answer(vectors[0]), media_type="application/json")


@bentoml.asgi_app(Starlette(routes=[Route("/embed", embed, methods=["POST"])]), path="/")
@bentoml.service(workers=1, traffic={"timeout": 60}, logging=QUIET)
class Embed:
    """Takes images in."""

    infer = bentoml.depends(Infer)

    def __init__(self) -> None:
        self.decode = decoder()
