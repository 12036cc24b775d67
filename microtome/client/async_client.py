"""`microtome.AsyncClient`: the same as `Client`, for asyncio.

A module apart from `client`, since importing asyncio takes longer than importing the rest of the client.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

from microtome.client import transports
from microtome.client.client import WINDOW
from microtome.client.errors import MicrotomeError
from microtome.client.grouping import sending
from microtome.client.images import ImageLike, encode_all, is_one
from microtome.client.options import EmbedOptions, outputs
from microtome.client.results import BatchResult, ModelInfo, Outcome, stack
from microtome.client.retries import Retry, RetryPolicy

if TYPE_CHECKING:
    from typing import Unpack

    from numpy.typing import NDArray

    from microtome.client.options import CallOptions

T = TypeVar("T")
R = TypeVar("R")


class AsyncClient:
    """A client of one gateway for asyncio; arguments, results and errors are those of `Client`.

    ```python
    async with microtome.AsyncClient("grpc://localhost:8001") as client:
        vector = await client.embed("cat.jpg")
        async for outcome in client.embed_many(paths):
            ...
    ```
    """

    def __init__(  # noqa: PLR0913, by keyword, and each has a default
        self,
        url: str = "http://localhost:8000",
        *,
        api_key: str | None = None,
        deadline: float | None = 60.0,
        attempt_timeout: float = 30.0,
        attempts: int | None = 6,
        on_retry: Callable[[Retry], None] | None = None,
        ca_file: str | None = None,
    ) -> None:
        """Prepare the transport; nothing is sent yet. Use the client in one event loop.

        Args:
            url: `http(s)://host:port` for HTTP, `grpc(s)://host:port` for gRPC.
            api_key: sent as a bearer token.
            deadline: seconds for a request with all its retries; None for as long as it takes.
            attempt_timeout: seconds for one attempt; the server is told, and stops working on it then.
            attempts: how often a request is tried at most; None for as often as the deadline allows.
            on_retry: called before each pause between attempts.
            ca_file: certificates (PEM) to trust instead of the system's.

        Raises:
            ValueError: the address has no known scheme or no host.
            ImportError: a grpc:// address, and gRPC is not installed.
        """
        self._transport = transports.open_async_transport(url, api_key, ca_file)
        self._policy = RetryPolicy(deadline, attempt_timeout, attempts, on_retry=on_retry)

    @overload
    async def embed(
        self, images: "ImageLike | Sequence[ImageLike]", *, output: str | None = None, **options: "Unpack[CallOptions]"
    ) -> "NDArray[Any]": ...

    @overload
    async def embed(
        self,
        images: "ImageLike | Sequence[ImageLike]",
        *,
        output: list[str] | tuple[str, ...],
        **options: "Unpack[CallOptions]",
    ) -> "dict[str, NDArray[Any]]": ...

    async def embed(
        self,
        images: "ImageLike | Sequence[ImageLike]",
        *,
        output: str | list[str] | tuple[str, ...] | None = None,
        **options: "Unpack[CallOptions]",
    ) -> "NDArray[Any] | dict[str, NDArray[Any]]":
        """Embed one image, or several with one version of one model; see `Client.embed`.

        Raises:
            MicrotomeError: the first image that failed, or the call as a whole.
            ValueError: an empty list.
        """
        one = is_one(images)
        listed: Sequence[Any] = [images] if one else list(images)  # type: ignore[arg-type]
        outcomes = [outcome async for outcome in self.embed_many(listed, output=output, **options)]
        return stack(outcomes, one=one, by_name=not (output is None or isinstance(output, str)))

    async def embed_many(
        self,
        images: "AsyncIterable[ImageLike] | Iterable[ImageLike]",
        *,
        output: str | Sequence[str] | None = None,
        concurrency: int = 8,
        batch: int = 8,
        **options: "Unpack[CallOptions]",
    ) -> AsyncGenerator[Outcome, None]:
        """Embed any number of images in bounded memory, in order; see `Client.embed_many`.

        Images are read and encoded in threads. An asynchronous iterable is awaited; an ordinary one must not block.

        Yields:
            one outcome for each image, in order; `error` is set when an image failed.

        Raises:
            MicrotomeError: an error that concerns every image: an unknown model, a missing key.
        """
        work = partial(self._embed_group, options=EmbedOptions(output=outputs(output), **options))
        groups = in_order(batches(images, batch), work, concurrency)
        # A caller who stops early closes this generator, which closes the one inside, which cancels its tasks.
        async with aclosing(groups):
            async for group in groups:
                for outcome in group:
                    yield outcome

    async def models(self) -> list[ModelInfo]:
        """List what is served, the default model first.

        Raises:
            MicrotomeError: the call failed.
        """
        return await self._call(self._transport.models)

    async def close(self) -> None:
        """Close all connections."""
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _embed_group(self, images: Sequence[Any], *, options: EmbedOptions) -> list[Outcome]:
        steps = sending(images, await asyncio.to_thread(encode_all, images))
        result: BatchResult | MicrotomeError
        try:
            bodies = next(steps)
            while True:
                try:
                    result = await self._call(partial(self._transport.embed, bodies, options))
                except MicrotomeError as error:
                    result = error
                bodies = steps.send(result)
        except StopIteration as end:
            return list(end.value)

    async def _call(self, attempt: Callable[[float], Awaitable[R]]) -> R:
        attempts = self._policy.begin()
        while True:
            try:
                return await attempt(attempts.timeout())
            except MicrotomeError as error:
                pause = attempts.pause(error)
            await asyncio.sleep(pause)


async def in_order(
    items: AsyncIterable[T] | Iterable[T], work: Callable[[T], Awaitable[R]], workers: int
) -> AsyncGenerator[R, None]:
    """Apply `work` to each item in a task and yield the results in order; cancel the rest when the caller stops."""
    started: deque[asyncio.Future[R]] = deque()
    room = asyncio.Semaphore(workers)

    async def one(item: T) -> R:
        async with room:
            return await work(item)

    try:
        async for item in asynchronously(items):
            started.append(asyncio.ensure_future(one(item)))
            while started and (len(started) >= WINDOW * workers or started[0].done()):
                yield await started.popleft()
        while started:
            yield await started.popleft()
    finally:
        for future in started:
            future.cancel()
        await asyncio.gather(*started, return_exceptions=True)


async def batches(items: AsyncIterable[T] | Iterable[T], size: int) -> AsyncIterator[list[T]]:
    """Cut an iterable into lists of `size`; the last may be shorter."""
    batch: list[T] = []
    async for item in asynchronously(items):
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


async def asynchronously(items: AsyncIterable[T] | Iterable[T]) -> AsyncIterator[T]:
    """Iterate over either kind; an ordinary iterable must not block."""
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
        return
    for item in items:
        yield item
