"""What a hostile neighbour tries on a model server's port, and what it gets.

``python -m tests.contract.tfserving.neighbour MODELS_DIR MODEL`` starts our server with the models of that directory,
tries all of it, and prints the table of docs/model-server.md; ``--address host:port --pid PID`` tries another server.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import grpc

from microtome.protobuf import varint
from tests.contract.tfserving.server_process import UNLIMITED, ServerProcess, free_port

PREDICT = "/tensorflow.serving.PredictionService/Predict"
METADATA = "/tensorflow.serving.PredictionService/GetModelMetadata"
STATUS = "/tensorflow.serving.ModelService/GetModelStatus"
RELOAD = "/tensorflow.serving.ModelService/HandleReloadConfigRequest"

Method: TypeAlias = "grpc.UnaryUnaryMultiCallable[bytes, bytes]"

UINT8, INT32, STRING = 4, 3, 7
LARGEST = 2**63 - 1


def block(number: int, content: bytes) -> bytes:
    """Write a field of bytes, text or a message."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def number(field: int, value: int) -> bytes:
    """Write a field with a number; of a negative one its 64 bits."""
    return varint(field << 3) + varint(value % 2**64)


def shape(*sizes: int) -> bytes:
    """Write a ``TensorShapeProto`` as a tensor's field."""
    return block(2, b"".join(block(2, number(1, size)) for size in sizes))


def tensor(dtype: int, sizes: bytes, values: bytes) -> bytes:
    """Write a ``TensorProto``."""
    return number(1, dtype) + sizes + values


def spec(model: str, signature: str = "") -> bytes:
    """Write a ``ModelSpec`` as the first field of a request."""
    return block(1, block(1, model.encode()) + (block(3, signature.encode()) if signature else b""))


def predict(
    model: str, sent: bytes, alias: str = "images", signature: str = "", outputs: tuple[str, ...] = ()
) -> bytes:
    """Write a ``PredictRequest`` with one input."""
    entry = block(2, block(1, alias.encode()) + block(2, sent))
    return spec(model, signature) + entry + b"".join(block(3, output.encode()) for output in outputs)


def reload(base_path: str) -> bytes:
    """Write a ``ReloadConfigRequest`` of one model."""
    entry = block(1, b"taken") + block(2, base_path.encode()) + block(4, b"tensorflow")
    return block(1, block(1, block(1, entry)))


class Target(NamedTuple):
    """The model that is tried: its name, the sizes of an image, and its outputs."""

    model: str
    image: tuple[int, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Attempt:
    """One message, and how often it is sent at the same time."""

    what: str
    method: str
    message: Callable[[Target], bytes]
    compressed: bool = False
    at_once: int = 1


def images(target: Target, rows: int) -> bytes:
    """One value for so many images."""
    return predict(target.model, tensor(UINT8, shape(rows, *target.image), block(7, b"\1")))


ATTEMPTS = (
    Attempt("one value for 3,000 images", PREDICT, lambda to: images(to, 3000)),
    Attempt("one value for 13,000 images", PREDICT, lambda to: images(to, 13000)),
    Attempt("the same, 64 at a time", PREDICT, lambda to: images(to, 3000), at_once=64),
    Attempt(
        "one row of 2^30 values",
        PREDICT,
        lambda to: predict(to.model, tensor(UINT8, shape(1, 2**10, 2**10, 2**10), b"")),
    ),
    Attempt("a negative size", PREDICT, lambda to: predict(to.model, tensor(UINT8, shape(-1, *to.image), b""))),
    Attempt(
        "no value, sizes 0, 2^63 - 1, 2^63 - 1, 3",
        PREDICT,
        lambda to: predict(to.model, tensor(UINT8, shape(0, LARGEST, LARGEST, 3), b"")),
    ),
    Attempt(
        "200,000 sizes of 2^63 - 1",
        PREDICT,
        lambda to: predict(to.model, tensor(UINT8, shape(*[LARGEST] * 200_000), b"")),
    ),
    Attempt(
        "8 million sizes that are not there",
        PREDICT,
        lambda to: predict(to.model, tensor(UINT8, block(2, block(2, b"") * 8_000_000), b"")),
    ),
    Attempt(
        "one text of 1 KB for 2^24 elements",
        PREDICT,
        lambda to: predict(to.model, tensor(STRING, shape(2**24), block(8, bytes(1024)))),
    ),
    Attempt(
        "8 million empty texts",
        PREDICT,
        lambda to: predict(to.model, tensor(STRING, shape(8_000_000), block(8, b"") * 8_000_000)),
    ),
    Attempt(
        "100 million numbers of a byte",
        PREDICT,
        lambda to: predict(to.model, tensor(UINT8, shape(1, *to.image), block(7, bytes(100_000_000)))),
    ),
    Attempt("1 million inputs", PREDICT, lambda to: spec(to.model) + block(2, block(1, b"x")) * 1_000_000),
    Attempt(
        "a million manifests",
        PREDICT,
        lambda to: predict(to.model, tensor(INT32, shape(1_000_000), b""), "query", "manifest"),
    ),
    Attempt("300 MB of zeros, compressed", PREDICT, lambda _: block(2, bytes(300_000_000)), compressed=True),
    Attempt(
        "1 million fields of metadata", METADATA, lambda to: spec(to.model) + block(2, b"signature_def") * 1_000_000
    ),
    Attempt("bytes that are no message", PREDICT, lambda _: b"\xff" * 100),
    Attempt("reload: any directory", RELOAD, lambda _: reload("/etc")),
    Attempt("reload: out of the models directory", RELOAD, lambda _: reload("/models/../etc")),
)
"""Each is refused or answered within bounds; none ends the server or makes it wait."""


@dataclass(frozen=True)
class Outcome:
    """What came of an attempt: its bytes, the answers, how long it took, the most memory that it added."""

    sent: int
    answer: str
    seconds: float
    megabytes: int


class Memory:
    """The resident memory of a process; zero growth when there is no process to look at."""

    def __init__(self, pid: int | None) -> None:
        self._status = Path(f"/proc/{pid}/status") if pid else None
        self._reset = Path(f"/proc/{pid}/clear_refs") if pid else None

    def read(self, name: str) -> int:
        """Return ``VmRSS`` (now) or ``VmHWM`` (the most since `forget`), in MB."""
        with contextlib.suppress(OSError, StopIteration):
            lines = self._status.read_text().splitlines() if self._status else []
            return int(next(line for line in lines if line.startswith(name)).split()[1]) >> 10
        return 0

    def forget(self) -> None:
        """Count the most from now on."""
        with contextlib.suppress(OSError):
            if self._reset:
                self._reset.write_text("5")


def tried(address: str, attempt: Attempt, target: Target, memory: Memory, seconds: float = 60) -> Outcome:
    """Send an attempt, and wait for all of its answers."""
    message = attempt.message(target)
    options = [*UNLIMITED, ("grpc.enable_retries", 0)]
    with grpc.insecure_channel(address, options) as channel:
        method: Method = channel.unary_unary(attempt.method)
        compression = grpc.Compression.Gzip if attempt.compressed else None
        memory.forget()
        before, began = memory.read("VmRSS"), time.monotonic()
        calls = [
            method.future(message, timeout=seconds, compression=compression, wait_for_ready=True)
            for _ in range(attempt.at_once)
        ]
        answers = {_answer(call) for call in calls}
        took = time.monotonic() - began
    return Outcome(len(message), " | ".join(sorted(answers)), took, max(memory.read("VmHWM") - before, 0))


def _answer(call: Any) -> str:
    try:
        call.result()
    except grpc.RpcError as error:
        return f"{error.code().name}: {(error.details() or '')[:100]}"
    return "OK"


def answers(address: str, target: Target) -> bool:
    """Whether the server still computes an image."""
    with grpc.insecure_channel(address) as channel:
        try:
            method: Method = channel.unary_unary(PREDICT)
            method(images(target, 1), timeout=60, wait_for_ready=True)
        except grpc.RpcError:
            return False
    return True


def _rest(port: int, method: str, path: str, body: Iterator[bytes] | None = None) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json"}, encode_chunked=True)
        return str(connection.getresponse().status)
    except OSError as error:
        return type(error).__name__
    finally:
        connection.close()


def _table(address: str, rest_port: int | None, pid: int | None, target: Target) -> None:
    memory = Memory(pid)
    if not answers(address, target):
        sys.exit(f"{target.model} does not answer at {address}")
    print("| what it sends | bytes | answer | seconds | MB more |\n|---|---|---|---|---|")  # noqa: T201
    for attempt in ATTEMPTS:
        outcome = tried(address, attempt, target, memory)
        alive = "" if answers(address, target) else " **and the server is gone**"
        _row(attempt.what, outcome, alive)
        if alive:
            sys.exit(1)
    sets = [names for size in range(1, len(target.outputs) + 1) for names in combinations(target.outputs, size)]
    for names in sets:
        one = tensor(UINT8, shape(1, *target.image), block(7, b"\1"))
        message = predict(target.model, one, outputs=names)
        asked = Attempt(f"outputs {', '.join(names)}", PREDICT, lambda _, message=message: message)  # type: ignore[misc]
        _row(asked.what, tried(address, asked, target, memory), "")
    memory.forget()
    before, began = memory.read("VmRSS"), time.monotonic()
    with grpc.insecure_channel(address) as channel:
        call: Method = channel.unary_unary(PREDICT)
        for name in range(20_000):
            with contextlib.suppress(grpc.RpcError):
                call(spec(f"{name}".rjust(1000, "x")), timeout=60)
    said = Outcome(20_000 * 1010, "NOT_FOUND", time.monotonic() - began, memory.read("VmRSS") - before)
    _row("20,000 names of 1,000 letters", said, "")
    if rest_port:
        for what, method, path, body in (
            ("REST: a version of 5,000 digits", "GET", f"/v1/models/{target.model}/versions/{'9' * 5000}", None),
            (
                "REST: 200 MB of JSON",
                "POST",
                f"/v1/models/{target.model}:predict",
                (bytes(1 << 20) for _ in range(200)),
            ),
        ):
            memory.forget()
            before, began = memory.read("VmRSS"), time.monotonic()
            answer = _rest(rest_port, method, path, body)
            _row(what, Outcome(0, answer, time.monotonic() - began, max(memory.read("VmHWM") - before, 0)), "")


def _row(what: str, outcome: Outcome, more: str) -> None:
    cells = (what, f"{outcome.sent:,}", f"{outcome.answer}{more}", f"{outcome.seconds:.1f}", f"{outcome.megabytes:,}")
    print(f"| {' | '.join(cells)} |", flush=True)  # noqa: T201


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", type=Path)
    parser.add_argument("model")
    parser.add_argument("--image", type=int, nargs="+", default=(224, 224, 3))
    parser.add_argument("--outputs", nargs="*", default=())
    parser.add_argument("--address")
    parser.add_argument("--rest", type=int)
    parser.add_argument("--pid", type=int)
    parser.add_argument("--flag", action="append", default=[])
    given = parser.parse_args()
    target = Target(given.model, tuple(given.image), tuple(given.outputs))
    if given.address:
        _table(given.address, given.rest, given.pid, target)
        return
    rest = free_port()
    with tempfile.TemporaryDirectory() as directory:
        flags = (f"--models_dir={given.models}", f"--rest_api_port={rest}", *given.flag)
        with ServerProcess(Path(directory), *flags) as server:
            _table(server.ready().address, rest, server.process.pid, target)


if __name__ == "__main__":
    _main()
