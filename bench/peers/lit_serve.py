"""LitServe: workers that decode and run batches, one per core.

https://lightning.ai/docs/litserve/features/batching. Left to itself LitServe reads a body as JSON or as a form. It
hands it to `decode_request` as it is when the parameter is declared with a dependency that reads it, as FastAPI has it.
"""

import os
from typing import Annotated, Any

import litserve
import numpy as np
from fastapi import Depends, Request, Response
from pixels import MAX_BATCH, MAX_WAIT, PORT, answer, decoder, network


async def body(request: Request) -> bytes:
    """The request's body."""
    return await request.body()


class Embed(litserve.LitAPI):
    """One image in, one vector out."""

    def setup(self, device: str) -> None:  # noqa: ARG002, LitServe's
        """Load, in each worker."""
        self.decode, self.network = decoder(), network()

    def decode_request(self, request: Annotated[bytes, Depends(body)]) -> Any:
        """Bytes to pixels."""
        return self.decode(request)

    def batch(self, inputs: list[Any]) -> Any:
        """Join pixels."""
        return np.stack(inputs)

    def predict(self, x: Any) -> Any:
        """Run the network."""
        return self.network(x)

    def unbatch(self, output: Any) -> list[Any]:
        """One vector to each caller."""
        return list(output)

    def encode_response(self, output: Any) -> Response:
        """Vector to JSON."""
        return Response(answer(output), media_type="application/json")


if __name__ == "__main__":
    api = Embed(max_batch_size=MAX_BATCH, batch_timeout=MAX_WAIT, api_path="/embed")
    server = litserve.LitServer(
        api, accelerator="cpu", devices=1, workers_per_device=os.cpu_count() or 1, timeout=60, fast_queue=True
    )
    server.run(host="127.0.0.1", port=PORT, log_level="warning", generate_client_file=False)
