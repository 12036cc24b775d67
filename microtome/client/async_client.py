"""`microtome.AsyncClient`: the same as `Client`, for asyncio.

A module apart from `client`, since importing asyncio takes longer than importing the rest of the client.
"""

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack, overload

from microtome.client.client import WINDOW, Connection, alone
from microtome.client.images import Crop, Crops, ImageLike, Images, cropped, encode_all, regions
from microtome.client.options import CallOptions, ClassifyOptions, EmbedOptions, OutputNames, class_options, outputs
from microtome.client.results import ModelInfo, Outcome, Prediction, predicted, stack

if TYPE_CHECKING:
    from numpy.typing import NDArray

T = TypeVar("T")
R = TypeVar("R")


class AsyncClient(Connection):
    """A client of one gateway for asyncio, in one event loop; arguments, results and errors are those of `Client`.

    ```python
    async with microtome.AsyncClient("grpc://localhost:8001") as client:
        vector = await client.embed("cat.jpg")
        async for outcome in client.embed_many(paths):
            ...
    ```
    """

    _asynchronous = True

    @overload
    async def embed(
        self, images: Images, *, output: str | None = None, crop: Crops = None, **options: Unpack[CallOptions]
    ) -> "NDArray[Any]": ...

    @overload
    async def embed(
        self, images: Images, *, output: OutputNames, crop: Crops = None, **options: Unpack[CallOptions]
    ) -> "dict[str, NDArray[Any]]": ...

    async def embed(
        self,
        images: Images,
        *,
        output: str | OutputNames | None = None,
        crop: Crops = None,
        **options: Unpack[CallOptions],
    ) -> "NDArray[Any] | dict[str, NDArray[Any]]":
        """Embed one image, or several with one version of one model; see `Client.embed`.

        Raises:
            MicrotomeError: the first image that failed, or the call as a whole.
            ValueError: an empty list, or a region that is none.
        """
        one, listed = alone(images, crop)
        outcomes = [outcome async for outcome in self.embed_many(listed, output=output, crop=crop, **options)]
        return stack(outcomes, one=one, by_name=not (output is None or isinstance(output, str)))

    async def embed_many(
        self,
        images: AsyncIterable[ImageLike] | Iterable[ImageLike],
        *,
        output: str | Sequence[str] | None = None,
        concurrency: int = 8,
        batch: int = 8,
        crop: Crops = None,
        **options: Unpack[CallOptions],
    ) -> AsyncGenerator[Outcome, None]:
        """Embed any number of images in bounded memory, in order; see `Client.embed_many`.

        Images are read and encoded in threads. An asynchronous iterable is awaited; an ordinary one must not block.

        Yields:
            one outcome for each image, in order; `error` is set when an image failed.

        Raises:
            MicrotomeError: an error that concerns every image: an unknown model, a missing key.
        """
        many = self._many(images, EmbedOptions(output=outputs(output), **options), concurrency, batch, regions(crop))
        async with aclosing(many):
            async for outcome in many:
                yield outcome

    @overload
    async def classify(  # type: ignore[overload-overlap]  # a path is text, which is a sequence of text
        self,
        images: ImageLike,
        *,
        output: str | None = None,
        crop: Crop | None = None,
        **options: Unpack[ClassifyOptions],
    ) -> Prediction: ...

    @overload
    async def classify(
        self,
        images: Images,
        *,
        output: str | None = None,
        crop: Crops = None,
        **options: Unpack[ClassifyOptions],
    ) -> list[Prediction]: ...

    async def classify(
        self,
        images: Images,
        *,
        output: str | None = None,
        crop: Crops = None,
        **options: Unpack[ClassifyOptions],
    ) -> Prediction | list[Prediction]:
        """Say what one image shows, or several by one version of one model; see `Client.classify`.

        Raises:
            MicrotomeError: the first image that failed, or the call as a whole.
        """
        one, listed = alone(images, crop)
        outcomes = self.classify_many(listed, output=output, crop=crop, **options)
        found = predicted([outcome async for outcome in outcomes])
        return found[0] if one else found

    async def classify_many(
        self,
        images: AsyncIterable[ImageLike] | Iterable[ImageLike],
        *,
        output: str | Sequence[str] | None = None,
        concurrency: int = 8,
        batch: int = 8,
        crop: Crops = None,
        **options: Unpack[ClassifyOptions],
    ) -> AsyncGenerator[Outcome, None]:
        """Classify any number of images in bounded memory, in order; see `Client.classify_many`.

        Yields:
            one outcome for each image, in order, with its `prediction`; `error` is set when an image failed.

        Raises:
            MicrotomeError: an error that concerns every image: an unknown model, a missing key.
        """
        many = self._many(images, class_options(options, outputs(output)), concurrency, batch, regions(crop))
        async with aclosing(many):
            async for outcome in many:
                yield outcome

    async def _many(
        self,
        images: AsyncIterable[ImageLike] | Iterable[ImageLike],
        wanted: EmbedOptions,
        concurrency: int,
        batch: int,
        crops: Sequence[Crop],
    ) -> AsyncGenerator[Outcome, None]:
        async def work(group: list[ImageLike]) -> list[Outcome]:
            parts = cropped(group, crops)
            return await self._embed_group(parts, await asyncio.to_thread(encode_all, parts), wanted, self._closed)

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
        return await self._call(self._transport.models(), self._closed)

    async def close(self) -> None:
        """Close all connections."""
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _pause(self, seconds: float, _: threading.Event) -> bool:
        await asyncio.sleep(seconds)
        return False


async def in_order(
    items: AsyncIterable[T] | Iterable[T], work: Callable[[T], Awaitable[R]], workers: int
) -> AsyncGenerator[R, None]:
    """Apply `work` to each item in a task and yield the results in order; cancel the rest when the caller stops.

    Items are read in a task of their own, so no result waits for an item that has not arrived.
    """
    started: asyncio.Queue[asyncio.Future[R] | None] = asyncio.Queue()
    tasks: set[asyncio.Future[R]] = set()
    window, busy = asyncio.Semaphore(WINDOW * workers - 1), asyncio.Semaphore(workers)

    async def one(item: T) -> R:
        async with busy:
            return await work(item)

    async def read() -> None:
        async for item in asynchronously(items):
            task = asyncio.ensure_future(one(item))
            tasks.add(task)
            started.put_nowait(task)
            await window.acquire()

    reader = asyncio.create_task(read())
    reader.add_done_callback(lambda _: started.put_nowait(None))
    try:
        while (task := await started.get()) is not None:
            yield await task
            tasks.discard(task)
            window.release()
        await reader
    finally:
        left: list[asyncio.Future[Any]] = [reader, *tasks]
        for future in left:
            future.cancel()
        await asyncio.gather(*left, return_exceptions=True)


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
