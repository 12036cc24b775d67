"""`microtome.Client`: images in, NumPy arrays out."""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

from microtome.client import opening, ordered
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


class Client:
    """A client of one gateway. It keeps connections open, retries, and may be used from many threads.

    ```python
    with microtome.Client("http://localhost:8000") as client:
        vector = client.embed("cat.jpg")                       # float32 [D]
        vectors = client.embed(["cat.jpg", "coffee.jpg"])      # float32 [2, D]
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
        """Prepare; nothing is sent yet.

        Args:
            url: `http(s)://host:port` for HTTP, `grpc(s)://host:port` for gRPC.
            api_key: sent as a bearer token.
            deadline: seconds for a request with all its retries; None for as long as it takes.
            attempt_timeout: seconds for one attempt; the server is told, and stops working for us then.
            attempts: how often a request is tried at most; None for as often as the deadline allows.
            on_retry: called, from any thread, before each pause between attempts.
            ca_file: certificates (PEM) to trust instead of the system's.

        Raises:
            ValueError: the address is none.
        """
        self._transport = opening.transport(url, api_key, ca_file)
        self._policy = RetryPolicy(
            deadline=deadline, attempt_timeout=attempt_timeout, attempts=attempts, on_retry=on_retry or (lambda _: None)
        )
        self._closed = threading.Event()

    @overload
    def embed(
        self, images: "Picture | Sequence[Picture]", *, output: str | None = None, **options: "Unpack[opening.Wanted]"
    ) -> "NDArray[Any]": ...

    @overload
    def embed(
        self,
        images: "Picture | Sequence[Picture]",
        *,
        output: list[str] | tuple[str, ...],
        **options: "Unpack[opening.Wanted]",
    ) -> "dict[str, NDArray[Any]]": ...

    def embed(
        self,
        images: "Picture | Sequence[Picture]",
        *,
        output: str | list[str] | tuple[str, ...] | None = None,
        **options: "Unpack[opening.Wanted]",
    ) -> "NDArray[Any] | dict[str, NDArray[Any]]":
        """Embed one image, or several with one version of one model.

        Args:
            images: a file's path or bytes, a Pillow image, uint8 pixels [H,W,3], a function that returns bytes; or a
                list of these.
            output: the name of an output; or a list of names, `["all"]` for every one.
            options: `model`, `version`, `normalize`, `dimensions`, `dtype`, `cache`: see `EmbedOptions`.

        Returns:
            float32 (or `dtype`) [D] for one image, [N, D] for a list; where a list of outputs was asked for, a dict of
            these by output.

        Raises:
            MicrotomeError: the first image that failed, or the call as a whole.
            ValueError: an empty list.
        """
        one = is_one(images)
        listed: Sequence[Any] = [images] if one else list(images)  # type: ignore[arg-type]
        outcomes = list(self.embed_many(listed, output=output, **options))
        return stacked(outcomes, one=one, by_name=not (output is None or isinstance(output, str)))

    def embed_many(
        self,
        images: "Iterable[Picture]",
        *,
        output: str | Sequence[str] | None = None,
        concurrency: int = 8,
        batch: int = 8,
        **options: "Unpack[opening.Wanted]",
    ) -> Iterator[Outcome]:
        """Embed any number of images; an endless iterable takes no more memory than a short one.

        At most 2 * `concurrency` * `batch` images are held. Pictures are read and encoded by the threads that send.

        Args:
            images: anything that `embed` takes; read by the calling thread, a window ahead.
            output: the name of an output or a list of names; None for the default output.
            concurrency: requests at a time.
            batch: images in a request; 1 where images come slowly and none shall wait for the next.
            options: as for `embed`.

        Yields:
            one outcome for each image, in order; what is wrong with one is its `error`.

        Raises:
            MicrotomeError: what would be wrong with every image: an unknown model, a missing key.
        """
        wanted = EmbedOptions(output=outputs(output), **options)
        stopped = threading.Event()
        work = partial(self._embed_group, options=wanted, stopped=stopped)
        for group in ordered.in_order(ordered.batches(images, batch), work, concurrency, stopped):
            yield from group

    def models(self) -> list[ModelInfo]:
        """List what is served, the default model first.

        Raises:
            MicrotomeError: it cannot be told.
        """
        return self._call(self._transport.models, self._closed)

    def close(self) -> None:
        """Close all connections; calls that wait for another attempt end with their error."""
        self._closed.set()
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _embed_group(
        self, pictures: Sequence[Any], *, options: EmbedOptions, stopped: threading.Event
    ) -> list[Outcome]:
        steps = sending(pictures, collected(pictures))
        try:
            bodies = next(steps)
            while True:
                try:
                    came = self._call(partial(self._transport.embed, bodies, options), stopped)
                except MicrotomeError as error:
                    bodies = steps.send(error)
                else:
                    bodies = steps.send(came)
        except StopIteration as end:
            return list(end.value)

    def _call(self, attempt: Callable[[float], R], stopped: threading.Event) -> R:
        attempts = self._policy.begin()
        while True:
            try:
                return attempt(attempts.timeout())
            except MicrotomeError as error:
                pause = attempts.pause(error)
                if stopped.wait(pause) or self._closed.is_set():
                    raise
