"""mosec: decoding and inference as two stages, one worker per core for decoding.

https://mosecorg.github.io/mosec/examples/pytorch.html
"""

import os
from typing import Any

import numpy as np
from mosec import Runtime, Server, Worker
from pixels import MAX_BATCH, MAX_WAIT, answer, decoder, network


class Decode(Worker):
    """Bytes to pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.decode = decoder()

    def deserialize(self, data: bytes) -> Any:
        """The body is the image."""
        return self.decode(data)

    def forward(self, data: Any) -> Any:
        """Decoded already."""
        return data


class Infer(Worker):
    """Pixels to vectors, in batches."""

    def __init__(self) -> None:
        super().__init__()
        self.network = network()

    def forward(self, data: list[Any]) -> list[Any]:
        """Run the network."""
        return list(self.network(np.stack(data)))

    def serialize(self, data: Any) -> bytes:
        """Vector to JSON."""
        return answer(data)


if __name__ == "__main__":
    server = Server()
    decoding = Runtime(Decode, num=os.cpu_count() or 1)
    inference = Runtime(Infer, num=1, max_batch_size=MAX_BATCH, max_wait_time=int(MAX_WAIT * 1000))
    server.register_runtime({"/embed": [decoding, inference]})
    server.run()
