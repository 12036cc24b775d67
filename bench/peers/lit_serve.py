"""LitServe: https://lightning.ai/docs/litserve/features/batching, decoding in `decode_request`, one worker."""

from typing import Any

import numpy as np
from fastapi import Request, Response
from litserve import LitAPI, LitServer
from pixels import MAX_BATCH, MAX_WAIT, PORT, answer, decoder, network


class Embed(LitAPI):
    """One image in, one vector out."""

    def setup(self, device: str) -> None:  # noqa: ARG002, its interface
        """Load, in the worker."""
        self.decode, self.network = decoder(), network()

    async def decode_request(self, request: Request) -> Any:
        """Bytes to pixels."""
        return self.decode(await request.body())

    def batch(self, inputs: list[Any]) -> Any:
        """Stack."""
        return np.stack(inputs)

    def predict(self, batch: Any) -> Any:
        """Run the network."""
        return self.network(batch)

    def unbatch(self, output: Any) -> list[Any]:
        """Unstack."""
        return list(output)

    def encode_response(self, output: Any) -> Response:
        """Vector to JSON."""
        return Response(answer(output), media_type="application/json")


if __name__ == "__main__":
    api = Embed(max_batch_size=MAX_BATCH, batch_timeout=MAX_WAIT, api_path="/embed")
    LitServer(api, accelerator="cpu", workers_per_device=1).run(
        port=PORT, log_level="warning", generate_client_file=False
    )
