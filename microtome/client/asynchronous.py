"""`microtome.AsyncClient`: the same as `Client`, for asyncio."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

from microtome.client import opening, ordered_async
from microtome.client.errors import MicrotomeError
from microtome.client.grouping import sending
from microtome.client.options import EmbedOptions, outputs
from microtome.client.outcomes import ModelInfo, Outcome
from microtome.client.pictures import Picture, collected, is_one
from microtome.client.retrying import Retry, RetryPolicy
from microtome.client.stacking import stacked

if TYPE_CHECKING:
    from typing import Unpack

    from numpy.typing import NDArray

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
        """Prepare; nothing is sent yet. Use it in one event loop.

        Args:
            url: `http(s)://host:port` for HTTP, `grpc(s)://host:port` for gRPC.
            api_key: sent as a bearer token.
            deadline: seconds for a request with all its retries; None for as long as it takes.
            attempt_timeout: seconds for one attempt; the server is told, and stops working for us then.
            attempts: how often a request is tried at most; None for as often as the deadline allows.
            on_retry: called before each pause between attempts.
            ca_file: certificates (PEM) to trust instead of the system's.

        Raises:
            ValueError: the address is none.
        """
        self._transport = opening.async_transport(url, api_key, ca_file)
        self._policy = RetryPolicy(
            deadline=deadline, attempt_timeout=attempt_timeout, attempts=attempts, on_retry=on_retry or (lambda _: None)
        )

    @overload
    async def embed(
        self, images: "Picture | Sequence[Picture]", *, output: str | None = None, **options: "Unpack[opening.Wanted]"
    ) -> "NDArray[Any]": ...

    @overload
    async def embed(
        self,
        images: "Picture | Sequence[Picture]",
        *,
        output: list[str] | tuple[str, ...],
        **options: "Unpack[opening.Wanted]",
    ) -> "dict[str, NDArray[Any]]": ...

    async def embed(
        self,
        images: "Picture | Sequence[Picture]",
        *,
        output: str | list[str] | tuple[str, ...] | None = None,
        **options: "Unpack[opening.Wanted]",
    ) -> "NDArray[Any] | dict[str, NDArray[Any]]":
        """Embed one image, or several with one version of one model; see `Client.embed`.

        Raises:
            MicrotomeError: the first image that failed, or the call as a whole.
            ValueError: an empty list.
        """
        one = is_one(images)
        listed: Sequence[Any] = [images] if one else list(images)  # type: ignore[arg-type]
        outcomes = [outcome async for outcome in self.embed_many(listed, output=output, **options)]
        return stacked(outcomes, one=one, by_name=not (output is None or isinstance(output, str)))

    async def embed_many(
        self,
        images: "AsyncIterable[Picture] | Iterable[Picture]",
        *,
        output: str | Sequence[str] | None = None,
        concurrency: int = 8,
        batch: int = 8,
        **options: "Unpack[opening.Wanted]",
    ) -> AsyncGenerator[Outcome, None]:
        """Embed any number of images in bounded memory, in order; see `Client.embed_many`.

        Pictures are read and encoded in threads. An asynchronous iterable is awaited, an ordinary one must not block.

        Yields:
            one outcome for each image, in order; what is wrong with one is its `error`.

        Raises:
            MicrotomeError: what would be wrong with every image: an unknown model, a missing key.
        """
        work = partial(self._embed_group, options=EmbedOptions(output=outputs(output), **options))
        groups = ordered_async.in_order(ordered_async.batches(images, batch), work, concurrency)
        # A caller who stops early ends this generator, and this the one inside, which cancels its tasks.
        async with aclosing(groups):
            async for group in groups:
                for outcome in group:
                    yield outcome

    async def models(self) -> list[ModelInfo]:
        """List what is served, the default model first.

        Raises:
            MicrotomeError: it cannot be told.
        """
        return await self._call(self._transport.models)

    async def close(self) -> None:
        """Close all connections."""
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _embed_group(self, pictures: Sequence[Any], *, options: EmbedOptions) -> list[Outcome]:
        steps = sending(pictures, await asyncio.to_thread(collected, pictures))
        try:
            bodies = next(steps)
            while True:
                try:
                    came = await self._call(partial(self._transport.embed, bodies, options))
                except MicrotomeError as error:
                    bodies = steps.send(error)
                else:
                    bodies = steps.send(came)
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
