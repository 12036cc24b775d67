"""The outermost layer of every call: API key, request id, metrics, access log, and a status for every error."""

import asyncio
from collections import Counter as TallyCounter
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import KW_ONLY, dataclass, field
from time import perf_counter
from typing import Any, TypeAlias

import grpc.aio
import structlog
from google.rpc.status_pb2 import Status
from grpc import StatusCode
from prometheus_client import Counter, Histogram

from microtome.arriving import Arriving, NotWhole
from microtome.errors import BodyTooSlow, Overloaded, ServiceError
from service.auth import Caller, Keyring, key_in
from service.core.timeouts import SharedTimeout
from service.grpc.errors import COUNTED_AS, INTERNAL_ERROR, describe_unexpected, described
from service.telemetry.logs import Logger, request_id
from service.telemetry.metrics import Metrics

Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"

_LARGE_BYTES = 1 << 20

_CODES = {code.value[0]: code for code in StatusCode}


@dataclass(slots=True)
class Call:
    """One call that is being answered.

    Attributes:
        caller: of its API key; None where none is required.
        arriving: bounds what is held of messages on their way.
        first_message: bounds the time until a call that names something has said what.
        streamed: how many images of a stream have been answered; None when this is no stream.
        public: whether it needs no key.
        facts: for the access log: names and counts; never a secret, never an image.
    """

    context: Context
    method: str
    request_id: str
    caller: Caller | None
    arriving: Arriving
    first_message: SharedTimeout
    public: bool = False
    streamed: int | None = None
    facts: dict[str, object] = field(default_factory=dict)

    async def read(self) -> bytes | None:
        """Return the next message as it came, None after the last.

        Raises:
            Overloaded: it came slowly, its caller held most of the memory of such messages, and there was none left.
        """
        peer = str(self.context.peer())
        try:
            with self.arriving.reading(peer, self.caller.name if self.caller else peer.rpartition(":")[0]):
                message: object = await self.context.read()
        except NotWhole:
            raise Overloaded(
                "Too many large messages of this caller are on their way at a time. Send fewer, or faster.",
                reason="arriving",
            ) from None
        if not isinstance(message, bytes):
            return None
        self.arriving.handed(peer, len(message))
        if len(message) > _LARGE_BYTES:
            # Copying it has held the event loop, and reading it will; others have a turn between the two.
            await asyncio.sleep(0)
        return message

    async def first(self) -> bytes | None:
        """Return the first message of a call whose messages are small, None if it has none.

        Raises:
            BodyTooSlow: it does not come.
        """
        try:
            async with self.first_message.bounded():
                return await self.read()
        except TimeoutError:
            raise BodyTooSlow("Expected the call's message within seconds, received none.") from None

    def allowed(self, longest: float) -> float:
        """Return the seconds that the call may take: until its own deadline, but no more than `longest`."""
        left = self.context.time_remaining()
        return longest if left is None else min(longest, left)


def host_of(context: Any) -> str:  # noqa: ANN401, of servicers with and without types
    """Return the address that a call comes from, without its port: `ipv4:10.0.0.1`."""
    return str(context.peer()).rpartition(":")[0]


Work: TypeAlias = Callable[[Call], Awaitable[Any]]


Ended: TypeAlias = Callable[[int, str, Mapping[str, object]], None]
"""Called with the number and the name of a call's status, and what the access log knows of it."""

Spans: TypeAlias = Callable[[str, Mapping[str, str]], AbstractContextManager[Ended]]
"""Context of a call, from its route and metadata."""


@contextmanager
def untraced(_: str, __: Mapping[str, str]) -> Iterator[Ended]:
    """Chosen when nothing is traced."""
    yield lambda _code, _name, _facts: None


@dataclass(slots=True)
class Calls:
    """Answers calls. No message is read before its call's key is known and there is room for it.

    Attributes:
        limit: calls in flight.
        limit_each: calls in flight of one caller: of the keys of one name, or of one address where there are no keys.
        arriving: bounds what is held of messages on their way.
        pause: seconds until the first message of a call that is small.
        keyring: the API keys; None serves all callers.
        spans: traces calls.
    """

    metrics: Metrics
    log: Logger
    _: KW_ONLY
    limit: int
    limit_each: int
    arriving: Arriving
    keyring: Keyring | None
    pause: float = 10.0
    log_access: bool = False
    spans: Spans = untraced
    _open: int = field(default=0, init=False)
    _open_of: TallyCounter[str] = field(default_factory=TallyCounter, init=False)
    _first_message: SharedTimeout = field(init=False)
    _counters: dict[tuple[str, StatusCode], tuple[Counter, Histogram]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        """Share one timer between all calls."""
        self._first_message = SharedTimeout(self.pause)

    def unary(
        self, methods: Mapping[str, Work], public: Collection[str] = ()
    ) -> "dict[str, grpc.RpcMethodHandler[Any, Any]]":
        """Return the handlers of methods that answer with one message, by their names; `public` ones need no key."""
        return {
            name: grpc.stream_unary_rpc_method_handler(self.answering(name, work, public=name in public))
            for name, work in methods.items()
        }

    def answering(self, method: str, work: Work, *, public: bool = False) -> Any:  # noqa: ANN401, see below
        """Return the function that gRPC's server calls for a method, which needs no key if it is `public`."""

        # grpc's types know functions of its threaded server only.
        async def answer(_: object, context: Context) -> Any:  # noqa: ANN401
            given = {name: value for name, value in context.invocation_metadata() or () if isinstance(value, str)}
            with self.spans(f"grpc:{method}", given) as ended:
                call = Call(
                    context,
                    method,
                    request_id(given.get("x-request-id", "")),
                    None,
                    self.arriving,
                    self._first_message,
                    public,
                )
                return await self._answer(call, work, given, ended)

        return answer

    async def _answer(self, call: Call, work: Work, given: Mapping[str, str], ended: Ended) -> Any:  # noqa: ANN401, as above
        context = call.context
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=call.request_id)
        context.set_trailing_metadata((("x-request-id", call.request_id),))
        start, code, admitted = perf_counter(), StatusCode.CANCELLED, ""
        self._open += 1
        try:
            admitted = self._admit(call, given)
            done = await work(call)
        except ServiceError as error:
            status = self.failed(error, call)
            code = _CODES[status.code]
        except (asyncio.CancelledError, grpc.aio.BaseError):
            # The caller has gone, or its deadline has passed: there is no one to answer.
            raise
        except Exception:  # noqa: BLE001, the one place for unexpected errors
            status = self.unexpected(call)
            code = StatusCode.INTERNAL
        else:
            code = StatusCode.OK
            return done
        finally:
            self._open -= 1
            self._left(admitted)
            self._note(call, code, perf_counter() - start)
            ended(code.value[0], code.name, call.facts)
        details = ("grpc-status-details-bin", status.SerializeToString())
        return await context.abort(code, status.message, (("x-request-id", call.request_id), details))

    def failed(self, error: ServiceError, call: Call) -> Status:
        """Count an error of the tree, and describe it."""
        self.metrics.failed(error)
        return described(error, request_id=call.request_id)

    def unexpected(self, call: Call) -> Status:
        """Log an unexpected error with its traceback, and describe it without internals."""
        self.log.exception("unexpected_error", method=call.method)
        self.metrics.errors.labels(INTERNAL_ERROR.lower().replace("_", "-")).inc()
        return describe_unexpected(call.request_id)

    def image_answered(self, call: Call, code: int, seconds: float) -> None:
        """Count an image of a stream like a call of its own: how long a stream is open says nothing."""
        call.streamed = (call.streamed or 0) + 1
        self._count(call.method, _CODES[code], seconds)

    def _count(self, method: str, code: StatusCode, seconds: float) -> None:
        route = f"grpc:{method}"
        counters = self._counters.get((route, code))
        if counters is None:
            status = COUNTED_AS.get(code, "500")
            # labels() takes as long as all the rest of counting.
            counters = self.metrics.requests.labels(route, status), self.metrics.request_seconds.labels(route)
            self._counters[route, code] = counters
        counters[0].inc()
        counters[1].observe(seconds)

    def _admit(self, call: Call, given: Mapping[str, str]) -> str:
        """Count a call among those of its caller, and return who that is."""
        if self.keyring is not None and not call.public:
            call.caller = self.keyring.identify(key_in(given.get("authorization", ""), given.get("x-api-key")))
            self.metrics.key_requests.labels(call.caller.name).inc()
            call.facts["key"] = call.caller.name
        if self._open > self.limit:
            raise Overloaded(f"The server already answers {self.limit} calls. Try again in a second.", reason="calls")
        whose = call.caller.name if call.caller else host_of(call.context)
        if self._open_of[whose] >= self.limit_each:
            raise Overloaded(
                f"The server already answers {self.limit_each} calls of this caller. Try again in a second.",
                reason="caller-calls",
            )
        self._open_of[whose] += 1
        return whose

    def _left(self, whose: str) -> None:
        if self._open_of[whose] > 1:
            self._open_of[whose] -= 1
        else:
            # Addresses that have gone are not kept.
            del self._open_of[whose]

    def _note(self, call: Call, code: StatusCode, seconds: float) -> None:
        if call.streamed is None or code is not StatusCode.OK:
            self._count(call.method, code, seconds)
        if self.log_access:
            route, ms = f"grpc:{call.method}", round(1000 * seconds, 2)
            facts = call.facts if call.streamed is None else {**call.facts, "images": call.streamed}
            self.log.info("request", method="gRPC", route=route, status=code.name, ms=ms, **facts)
