"""Ray Serve: one replica that batches and decodes in threads.

https://docs.ray.io/en/latest/serve/advanced-guides/dyn-req-batch.html
"""

import asyncio
import os
from typing import Any

import numpy as np
import ray
from pixels import MAX_BATCH, MAX_WAIT, PORT, answer, decoder, network
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

OBJECT_STORE_BYTES = 150_000_000


@serve.deployment(max_ongoing_requests=256, ray_actor_options={"num_cpus": 1})
class Embed:
    """One image in, one vector out."""

    def __init__(self) -> None:
        self.decode, self.network = decoder(), network()

    @serve.batch(max_batch_size=MAX_BATCH, batch_wait_timeout_s=MAX_WAIT)
    async def infer(self, images: list[Any]) -> list[Any]:
        """Run the network in a thread, so that the replica goes on receiving."""
        return list(await asyncio.to_thread(self.network, np.stack(images)))

    async def __call__(self, request: Request) -> Response:
        """Decode in a thread as well."""
        pixels = await asyncio.to_thread(self.decode, await request.body())
        return Response(answer(await self.infer(pixels)), media_type="application/json")


if __name__ == "__main__":
    # No dashboard, no more shared memory than these requests need.
    ray.init(
        include_dashboard=False,
        log_to_driver=False,
        num_cpus=os.cpu_count(),
        object_store_memory=OBJECT_STORE_BYTES,
        runtime_env={"env_vars": {name: os.environ[name] for name in ("MODEL", "PORT", "PYTHONPATH")}},
    )
    serve.start(http_options={"host": "127.0.0.1", "port": PORT})
    serve.run(Embed.bind(), route_prefix="/", blocking=True)
