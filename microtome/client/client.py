"""`microtome.Client`: images in, NumPy arrays out.

Requests run in threads and their results come out in order. Nothing is read ahead of a bounded window, so an endless
iterable takes no more memory than a short one.
"""

import contextvars
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack, cast, overload
from urllib.parse import urlsplit

from microtome.client import errors
from microtome.client.errors import MicrotomeError
from microtome.client.images import Crop, Cropped, Crops, ImageLike, Images, Text, cropped, encode_all, is_one, regions
from microtome.client.options import CallOptions, ClassifyOptions, EmbedOptions, OutputNames, class_options, outputs
from microtome.client.results import BatchResult, ModelInfo, Outcome, Prediction, predicted, stack, succeeded
from microtome.client.retries import Retry, RetryPolicy
from microtome.client.transports import Call, Transport

if TYPE_CHECKING:
    from numpy.typing import NDArray

T = TypeVar("T")
R = TypeVar("R")

_MOST_REGIONS = 32
"""Images in a request that has regions of some; servers take 64 by default, and each region counts."""

WINDOW = 2
"""Items started or waiting to be returned, for each worker: while the oldest is slow, the others go on."""

_CONCERNS_THE_CALL = (
    errors.BadRequest,
    errors.Unauthenticated,
    errors.NotAcceptable,
    errors.UnknownModel,
    errors.UnknownVersion,
    errors.UnknownOutput,
    errors.UnexpectedAnswer,
)
"""Errors that every image would meet: they are raised instead of repeated for each image."""

_MAY_BE_ONE = (errors.ImageTooLarge, errors.TooManyImages, errors.ModelServerFault, errors.InternalError)
"""Refusals of a whole request that one image, or their number, may have caused: each image is sent again alone."""


class Connection(ABC):
    """What both clients are made of: a transport, a policy of retries, and the loops around them.

    The loops are coroutines. In a `Client` every step of them blocks, so they end without an event loop.
    """

    _asynchronous = False

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
        """Prepare the transport; nothing is sent yet.

        Args:
            url: `http(s)://host:port` for HTTP, `grpc(s)://host:port` for gRPC.
            api_key: sent as a bearer token.
            deadline: seconds for a request with all its retries; None for as long as it takes.
            attempt_timeout: seconds for one attempt; the server is told, and stops working on it then.
            attempts: how often a request is tried at most; None for as often as the deadline allows.
            on_retry: called before each pause between attempts, from any thread.
            ca_file: certificates (PEM) to trust instead of the system's.

        Raises:
            ValueError: the address has no known scheme or no host.
            ImportError: a grpc:// address, and gRPC is not installed.
        """
        self._transport = _opened(url, api_key, ca_file, asynchronous=self._asynchronous)
        self._policy = RetryPolicy(deadline, attempt_timeout, attempts, on_retry=on_retry)
        self._closed = threading.Event()

    @abstractmethod
    async def _pause(self, seconds: float, stopped: threading.Event) -> bool:
        """Wait before the next attempt; return whether the caller has gone meanwhile."""

    async def _embed_group(
        self,
        images: Sequence[Any],
        bodies: Sequence[bytes | Text | MicrotomeError],
        options: EmbedOptions,
        stopped: threading.Event,
    ) -> list[Outcome]:
        """Send images as one request, then send those that failed again alone.

        Args:
            images: the images as the caller passed them.
            bodies: the result of `encode_all`.
            options: of the request.
            stopped: set when the caller takes no more results.

        Returns:
            their outcomes, in order.

        Raises:
            MicrotomeError: an error of the call as a whole.
        """
        results: list[Outcome] = [
            Outcome(image, error=body if isinstance(body, errors.MicrotomeError) else None)
            for image, body in zip(images, bodies, strict=True)
        ]
        sound = [
            (place, Cropped(body, image.crop) if isinstance(image, Cropped) else body)
            for place, (image, body) in enumerate(zip(images, bodies, strict=True))
            if not isinstance(body, MicrotomeError)
        ]
        waiting = [sound] if sound else []
        while waiting:
            group = waiting.pop(0)
            if len(group) > _MOST_REGIONS and any(isinstance(body, Cropped) for _, body in group):
                waiting[:0] = [group[:_MOST_REGIONS], group[_MOST_REGIONS:]]
                continue
            try:
                result = await self._call(self._transport.embed([body for _, body in group], options), stopped)
            except _CONCERNS_THE_CALL:
                raise
            except errors.MicrotomeError as error:
                if len(group) > 1 and isinstance(error, _MAY_BE_ONE):
                    waiting += [[one] for one in group]
                    continue
                failures = error.failures if isinstance(error, errors.NoImageEmbedded) else {}
                result = BatchResult([None] * len(group), [failures.get(n, error) for n in range(len(group))])
            for one, found, model in zip(group, result.results, result.models, strict=True):
                place = one[0]
                if isinstance(found, errors.MicrotomeError):
                    # The cause may be another image of the group, or temporary.
                    if isinstance(found, errors.TemporarilyUnable | errors.NoImageEmbedded) and len(group) > 1:
                        waiting.append([one])
                    results[place] = Outcome(images[place], error=found)
                else:
                    results[place] = succeeded(images[place], found, model)
        return results

    async def _call(self, call: Call[R], stopped: threading.Event) -> R:
        attempts = self._policy.begin()
        while True:
            try:
                with self._transport.translated():
                    response = call.send(attempts.timeout())
                    response = await response if self._asynchronous else response
                return call.read(response)
            except MicrotomeError as error:
                if await self._pause(attempts.pause(error), stopped):
                    raise


class Client(Connection):
    """A client of one gateway. It keeps connections open, retries, and may be used from many threads.

    ```python
    with microtome.Client("http://localhost:8000") as client:
        vector = client.embed("cat.jpg")                       # float32 [D]
        vectors = client.embed(["cat.jpg", "coffee.jpg"])      # float32 [2, D]
        words = client.embed(microtome.Text("a photo of a cat"), model="clip")
    ```
    """

    @overload
    def embed(
        self, images: Images, *, output: str | None = None, crop: Crops = None, **options: Unpack[CallOptions]
    ) -> "NDArray[Any]": ...

    @overload
    def embed(
        self, images: Images, *, output: OutputNames, crop: Crops = None, **options: Unpack[CallOptions]
    ) -> "dict[str, NDArray[Any]]": ...

    def embed(
        self,
        images: Images,
        *,
        output: str | OutputNames | None = None,
        crop: Crops = None,
        **options: Unpack[CallOptions],
    ) -> "NDArray[Any] | dict[str, NDArray[Any]]":
        """Embed one image, or several with one version of one model.

        Args:
            images: a file's path or bytes, a file object opened with "rb", a Pillow image, uint8 pixels [H,W,3], a
                function that returns bytes; a `Text`, for a model of images and text; or a list of these.
            output: the name of an output; or a list of names, `["all"]` for every one.
            crop: embed this region of each image, (x, y, width, height) in fractions; or a list of regions of each.
                `Cropped` gives images regions of their own.
            options: `model`, `version`, `normalize`, `dimensions`, `dtype`, `cache`, `priority`: see
                `EmbedOptions`.

        Returns:
            float32 (or `dtype`) [D] for one image, [N, D] for a list of images or of regions; where a list of outputs
            was asked for, a dict of these by output.

        Raises:
            MicrotomeError: the first image that failed, or the call as a whole.
            ValueError: an empty list, or a region that is none.
        """
        one, listed = alone(images, crop)
        outcomes = list(self.embed_many(listed, output=output, crop=crop, **options))
        return stack(outcomes, one=one, by_name=not (output is None or isinstance(output, str)))

    def embed_many(
        self,
        images: Iterable[ImageLike],
        *,
        output: str | Sequence[str] | None = None,
        concurrency: int = 8,
        batch: int = 8,
        crop: Crops = None,
        **options: Unpack[CallOptions],
    ) -> Iterator[Outcome]:
        """Embed any number of images; an endless iterable takes no more memory than a short one.

        At most 2 * `concurrency` * `batch` images are held. Images are read and encoded by the threads that send.

        Args:
            images: anything that `embed` takes; read a window ahead, by the calling thread unless `batch` is 1.
            output: the name of an output or a list of names; None for the default output.
            concurrency: requests at a time.
            batch: images in a request; 1 where images arrive slowly and none should wait for the next: a thread of its
                own then reads them. With more, finished outcomes are yielded when the next image has been read.
            crop: as for `embed`; of several regions each has an outcome.
            options: as for `embed`.

        Yields:
            one outcome for each image, in order; `error` is set when an image failed.

        Raises:
            MicrotomeError: an error that concerns every image: an unknown model, a missing key.
        """
        return self._many(images, EmbedOptions(output=outputs(output), **options), concurrency, batch, regions(crop))

    @overload
    def classify(  # type: ignore[overload-overlap]  # a path is text, which is a sequence of text
        self,
        images: ImageLike,
        *,
        output: str | None = None,
        crop: Crop | None = None,
        **options: Unpack[ClassifyOptions],
    ) -> Prediction: ...

    @overload
    def classify(
        self,
        images: Images,
        *,
        output: str | None = None,
        crop: Crops = None,
        **options: Unpack[ClassifyOptions],
    ) -> list[Prediction]: ...

    def classify(
        self,
        images: Images,
        *,
        output: str | None = None,
        crop: Crops = None,
        **options: Unpack[ClassifyOptions],
    ) -> Prediction | list[Prediction]:
        """Say what one image shows, or several by one version of one model.

        Args:
            images: as for `embed`.
            output: the name of an output with classes; None for the one that classifies by default.
            crop: as for `embed`.
            options: `model`, `version`, `cache`, `priority`, `top_k`, `min_score`, `function`, `labels`, `template`:
                see `EmbedOptions` and `ClassOptions`.

        Returns:
            the prediction of one image, or a list of them for a list of images or of regions.

        Raises:
            MicrotomeError: the first image that failed, or the call as a whole.
        """
        one, listed = alone(images, crop)
        found = predicted(list(self.classify_many(listed, output=output, crop=crop, **options)))
        return found[0] if one else found

    def classify_many(
        self,
        images: Iterable[ImageLike],
        *,
        output: str | Sequence[str] | None = None,
        concurrency: int = 8,
        batch: int = 8,
        crop: Crops = None,
        **options: Unpack[ClassifyOptions],
    ) -> Iterator[Outcome]:
        """Classify any number of images in bounded memory, as `embed_many` embeds them.

        Args:
            images: anything that `embed` takes.
            output: the name of an output, or a list of names; those without classes give vectors.
            concurrency: requests at a time.
            batch: images in a request.
            crop: as for `embed_many`.
            options: as for `classify`.

        Yields:
            one outcome for each image, in order, with its `prediction`; `error` is set when an image failed.

        Raises:
            MicrotomeError: an error that concerns every image: an unknown model, a missing key.
        """
        return self._many(images, class_options(options, outputs(output)), concurrency, batch, regions(crop))

    def _many(
        self, images: Iterable[ImageLike], wanted: EmbedOptions, concurrency: int, batch: int, crops: Sequence[Crop]
    ) -> Iterator[Outcome]:
        stopped = threading.Event()

        def work(group: list[ImageLike]) -> list[Outcome]:
            parts = cropped(group, crops)
            return _finished(self._embed_group(parts, encode_all(parts), wanted, stopped))

        read = read_apart if batch == 1 else read_here
        for group in read(batches(images, batch), work, concurrency, stopped):
            yield from group

    def models(self) -> list[ModelInfo]:
        """List what is served, the default model first.

        Raises:
            MicrotomeError: the call failed.
        """
        return _finished(self._call(self._transport.models(), self._closed))

    def close(self) -> None:
        """Close all connections; calls that wait for another attempt end with their last error."""
        self._closed.set()
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def _pause(self, seconds: float, stopped: threading.Event) -> bool:
        return stopped.wait(seconds) or self._closed.is_set()


def alone(images: Any, crop: Any) -> tuple[bool, list[Any]]:  # noqa: ANN401, what callers pass
    """Return whether a call has one result, and its images as a list.

    Raises:
        ValueError: a region that is none.
    """
    one = is_one(images)
    return one and (crop is None or regions(crop) == [tuple(crop)]), [images] if one else list(images)


def _finished(blocking: Coroutine[Any, Any, R]) -> R:
    """Run a coroutine whose every step blocks: it ends without having waited for an event loop."""
    try:
        blocking.send(None)
    except StopIteration as end:
        return cast("R", end.value)
    raise AssertionError


def read_here(items: Iterable[T | None], work: Callable[[T], R], workers: int, stopped: threading.Event) -> Iterator[R]:
    """Apply `work` to each item in a pool of threads and yield the results in order; the calling thread reads.

    When the caller stops early, items that have not started are dropped, `stopped` is set for those that have, and
    their threads are joined: a thread that outlives its call would use connections that its caller closes.

    Args:
        items: None is no item: a moment to yield what is finished.
        work: for one item.
        workers: threads.
        stopped: set at the end.
    """
    pool = ThreadPoolExecutor(workers, thread_name_prefix="microtome-client")
    started: deque[Future[R]] = deque()
    try:
        for item in items:
            if item is not None:
                started.append(pool.submit(work, item))
            while started and (len(started) >= WINDOW * workers or started[0].done()):
                yield started.popleft().result()
        while started:
            yield started.popleft().result()
    finally:
        stopped.set()
        pool.shutdown(wait=True, cancel_futures=True)


def read_apart(
    items: Iterable[T | None], work: Callable[[T], R], workers: int, stopped: threading.Event
) -> Iterator[R]:
    """As `read_here`, but a thread of its own reads: no result waits for an item that has not arrived.

    A caller who stops early does not wait for the next item either. The thread ends when it has come.
    """
    pool = ThreadPoolExecutor(workers, thread_name_prefix="microtome-client")
    started: SimpleQueue[Future[R] | None] = SimpleQueue()
    window = threading.Semaphore(WINDOW * workers - 1)

    def read() -> None:
        try:
            for item in items:
                if item is not None and not stopped.is_set():
                    started.put(pool.submit(work, item))
                    window.acquire()
                if stopped.is_set():
                    return
        except BaseException as error:  # noqa: BLE001, the caller's own, raised where the caller sees it
            failed: Future[R] = Future()
            failed.set_exception(error)
            started.put(failed)
        started.put(None)

    # A daemon: it may wait for an item for ever, and the program must be able to end.
    threading.Thread(target=contextvars.copy_context().run, args=(read,), name="microtome-reader", daemon=True).start()
    try:
        while (future := started.get()) is not None:
            yield future.result()
            window.release()
    finally:
        stopped.set()
        window.release()
        pool.shutdown(wait=True, cancel_futures=True)


def batches(items: Iterable[T], size: int) -> Iterator[list[T] | None]:
    """Cut an iterable into lists of `size`, the last may be shorter; None while a list is being filled."""
    batch: list[T] = []
    for item in items:
        batch.append(item)
        if len(batch) < size:
            yield None
        else:
            yield batch
            batch = []
    if batch:
        yield batch


def _opened(url: str, api_key: str | None, ca_file: str | None, *, asynchronous: bool) -> Transport:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https", "grpc", "grpcs"} or not parts.hostname:
        raise ValueError(f"Expected an address such as http://host:8000 or grpc://host:8001, received {url!r}.")
    # Each is imported only where it is used.
    if parts.scheme in {"http", "https"}:
        from microtome.client.http import HttpTransport  # noqa: PLC0415

        return HttpTransport(url.rstrip("/"), api_key, ca_file, asynchronous=asynchronous)
    try:
        from microtome.client.grpc import GrpcTransport  # noqa: PLC0415
    except ModuleNotFoundError as error:
        needed = "pip install grpcio protobuf googleapis-common-protos"
        raise ImportError(f"grpc:// addresses need gRPC, which is not installed: {needed}") from error
    return GrpcTransport(url.rstrip("/"), api_key, ca_file, asynchronous=asynchronous)
