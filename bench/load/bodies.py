"""Request heads and bodies without copies: the image's bytes are shared, only a few bytes are new.

Decoders ignore bytes after the end of a JPEG, and the cache key covers them: eight bytes defeat every cache.
"""

import itertools
import os
import random
from collections.abc import Iterator
from pathlib import Path

from bench.load.plan import Load

_BOUNDARY = b"microtome-bench-boundary"
_PART = b"--" + _BOUNDARY + b'\r\nContent-Disposition: form-data; name="image"; filename="x.jpg"\r\n\r\n'
_END = b"--" + _BOUNDARY + b"--\r\n"

Pieces = list[bytes]
"""Bytes to be written one after the other."""


def bodies(load: Load) -> Iterator[Pieces]:
    """Yield images without end."""
    images = [Path(path).read_bytes() for path in load.images]
    numbers = _zipf(load) if load.draw == "zipf" else itertools.count()
    # Two runs of this process, or of two processes, never send the same cold body.
    salt = os.urandom(8) if load.draw == "cold" else load.series.to_bytes(8, "big")

    for number in numbers:
        yield [images[number % len(images)], b"" if load.draw == "warm" else salt + number.to_bytes(8, "big")]


def requests(load: Load) -> Iterator[Pieces]:
    """Yield whole requests, head and body, without end."""
    images = bodies(load)
    if load.per_request == 1:
        for body in images:
            yield [_head(load, body, "application/octet-stream"), *body]
    while True:
        body = [piece for _ in range(load.per_request) for piece in (_PART, *next(images), b"\r\n")] + [_END]
        yield [_head(load, body, f"multipart/form-data; boundary={_BOUNDARY.decode()}"), *body]


def _head(load: Load, body: Pieces, content_type: str) -> bytes:
    length = sum(map(len, body))
    lines = [f"Host: 127.0.0.1:{load.port}", f"Content-Type: {content_type}", f"Content-Length: {length}"]
    return "\r\n".join([f"POST {load.path} HTTP/1.1", *lines, "\r\n"]).encode()


def _zipf(load: Load) -> Iterator[int]:
    # Seeded: two contestants of a comparison see the same sequence.
    chance = random.Random(load.series)
    weights = list(itertools.accumulate(1 / rank for rank in range(1, load.population + 1)))
    while True:
        yield from chance.choices(range(load.population), cum_weights=weights, k=1000)
