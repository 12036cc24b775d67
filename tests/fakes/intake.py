"""The way to the core over the fake model server, for tests of transports."""

from concurrent.futures import ThreadPoolExecutor

from service.cache.memory import MemoryCache
from service.core.admission import Budget
from service.core.decoding import DecodeMemory, Decoding
from service.core.embedder import Embedder, Limits
from service.core.intake import Intake
from service.core.ports import VectorCache
from service.core.remote_images import Fetcher, fetching
from service.http.bodies import BodyLimits
from service.telemetry.metrics import Metrics
from tests.fakes.model_server import FakeModelServer


def intake_over(
    server: FakeModelServer,
    decoders: ThreadPoolExecutor,
    metrics: Metrics,
    *,
    bodies: BodyLimits,
    max_pixels: int = 10_000,
    images_in_flight: int = 100,
    body_bytes_in_flight: int = 1 << 30,
    cache: VectorCache | None = None,
    fetcher: Fetcher | None = None,
    deadline: float = 30,
) -> Intake:
    """Build it, with a memory cache of 1 MB unless another is given; `bodies.max_images` limits a request."""
    images = Budget(images_in_flight, "images", metrics.level(metrics.images_in_flight))
    arriving = Budget(body_bytes_in_flight, "bytes", metrics.level(metrics.body_bytes_in_flight))
    embedder = Embedder(
        server,
        cache or MemoryCache(1 << 20),
        limits=Limits(bodies.max_images),
        budget=images,
        bulk=images.for_bulk(metrics.level(metrics.bulk_images_in_flight)),
        decoding=Decoding(decoders, DecodeMemory(1 << 30), at_a_time=2, max_pixels=max_pixels),
        observer=metrics,
    )
    return Intake(
        embedder,
        server,
        fetching(fetcher, max_bytes=bodies.max_image_bytes, max_total=bodies.max_body_bytes),
        arriving,
        bodies.max_body_bytes,
        metrics,
        "toy",
        deadline,
        bulk_bodies=arriving.for_bulk(),
    )
