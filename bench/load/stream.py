"""A load over one EmbedStream of gRPC, by the Python client's `embed_stream`."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator

import grpc.aio

from bench.load.bodies import bodies
from bench.load.plan import Load, Outcome
from microtome.client.grpc_stream import embed_stream
from microtome.v1.embedding_pb2_grpc import EmbeddingServiceStub


async def streamed(load: Load) -> Outcome:
    """Send images for the load's seconds, `connections` of them in flight; answers have no latency of their own."""
    options = [("grpc.enable_http_proxy", 0)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{load.port}", options=options) as channel:
        stub = EmbeddingServiceStub(channel)
        await asyncio.wait_for(channel.channel_ready(), 10.0)
        cpu, begin = time.process_time(), time.perf_counter()

        def images() -> Iterator[tuple[str, bytes]]:
            for number, pieces in enumerate(bodies(load)):
                if time.perf_counter() > begin + load.seconds:
                    return
                yield str(number), b"".join(pieces)

        stream = embed_stream(stub, images(), under_way=load.connections)
        answers = Counter(["200" if answer.result.embeddings else "0" async for answer in stream])
    return Outcome(
        statuses=dict(answers),
        seconds=time.perf_counter() - begin,
        latency={},
        images=answers["200"],
        bytes_received=0,
        cpu_seconds=time.process_time() - cpu,
    )
