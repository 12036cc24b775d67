"""`python -m bench.load`: reads loads from standard input, a JSON object a line, and answers each with its outcome."""

import asyncio
import gc
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict

import grpc
import grpc.aio
import uvloop

from bench.load.bodies import bodies
from bench.load.plan import Load, Outcome
from bench.load.run import Run
from microtome.client.grpc_stream import embed_stream
from microtome.v1.embedding_pb2_grpc import EmbeddingServiceStub


async def _streamed(load: Load) -> Outcome:
    """Send images over one EmbedStream, `connections` of them in flight; their answers have no latency."""
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


async def _outcome(load: Load) -> dict[str, object]:
    return asdict(await (_streamed(load) if load.mode == "stream" else Run(load).outcome()))


def main() -> None:
    """Serve until standard input ends."""
    for line in sys.stdin:
        load = Load(**json.loads(line))
        gc.collect()
        gc.disable()  # a pause of the collector would be counted as latency of the server
        try:
            answer = uvloop.run(_outcome(load))
        except (OSError, TimeoutError, grpc.RpcError) as error:  # of the server; the next load may be on another one
            answer = {"error": f"{type(error).__name__} {error}"}
        gc.enable()
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
