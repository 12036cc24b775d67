"""Each parser of untrusted input with an input and with twice as much: what is linear, or bounded, shows at once."""

import asyncio
import contextlib
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

from exporter.errors import ExporterError
from exporter.recipe.reading import read_recipe
from microtome.errors import ServiceError
from microtome.inference.v2 import inference_pb2 as inference
from microtome.protobuf import field_prefix
from microtome.v1 import embedding_pb2 as pb
from service import kserve
from service.grpc.embed import parsed
from service.http import bodies
from service.http.bounded_json import read_object
from service.http.compat import cohere, openai, voyage, weaviate
from service.http.compat.kserve import _read_body
from service.http.negotiation import chosen
from service.http.parameters import ParameterReader, seconds_allowed
from tests.hostile.gateway import report

_LIMITS = bodies.BodyLimits(20 << 20, 64 << 20, 64)
_ROUNDS = 3

Parser = tuple[str, str, Callable[[int], Any], Callable[[Any], object], int]
"""Parser, kind of input, the input of a size, what reads it, and the size."""


def _all() -> Iterator[Parser]:
    yield from _heads()
    yield from _json()
    yield from _contracts()
    yield from _forms()
    yield from _tensors()
    yield from _messages()
    yield from _recipes()


def _scope(query: bytes = b"", **headers: bytes) -> dict[str, Any]:
    return {"query_string": query, "headers": [(name.encode().replace(b"_", b"-"), v) for name, v in headers.items()]}


def _heads() -> Iterator[Parser]:
    def read(scope: dict[str, Any]) -> object:
        return ParameterReader("toy").read(scope)

    yield "query", "output=", lambda n: _scope(b"&".join([b"output=a"] * (n // 9))), read, 32_000
    yield "query", "999 outputs", lambda n: _scope(b"&".join([b"output=" + b"a" * (n // 1100)] * 999)), read, 32_000
    yield "query", "&", lambda n: _scope(b"&" * n), read, 32_000
    yield "query", "a model's name", lambda n: _scope(b"model=" + b"a" * n), read, 32_000
    yield "query", "escapes", lambda n: _scope(b"model=" + b"%41" * (n // 3)), read, 32_000
    yield "query", "digits", lambda n: _scope(b"version=" + b"9" * n), read, 32_000
    yield "Accept", "ranges", lambda n: "a/b;q=1," * (n // 8), lambda t: chosen(t, None, several=False), 32_000
    yield "Accept", ";", lambda n: ";q=" * (n // 3), lambda t: chosen(t, None, several=False), 32_000
    yield (
        "X-Request-Timeout",
        "digits",
        lambda n: _scope(x_request_timeout=b"9" * n),
        lambda s: seconds_allowed(s, 30),
        32_000,
    )
    yield "version", "digits", lambda n: "9" * n, kserve.version_number, 32_000
    yield "version", "zeros", lambda n: "0" * n + "1", kserve.version_number, 32_000


def _json() -> Iterator[Parser]:
    def text(inside: str) -> bytes:
        return ('{"image":' + inside + "}").encode()

    def read(body: bytes) -> object:
        return bodies.read_json(body, limits=_LIMITS)

    for name, make in {
        "base64": lambda n: text('"' + "A" * (n // 4 * 4) + '"'),
        "base64, escaped slashes": lambda n: text('"' + ("A" * 62 + "\\/") * (n // 64) + '"'),
        "base64, lines": lambda n: text('"' + ("A" * 76 + "\\n") * (n // 78) + '"'),
        "data URI": lambda n: text('"data:;base64,' + "A" * (n // 4 * 4) + '"'),
        "data URI without comma": lambda n: text('"data:' + ";" * n + '"'),
        "escapes": lambda n: text('"' + "\\n" * (n // 2) + '"'),
        "backslashes": lambda n: text('"' + "\\" * n + '"'),
        "escaped quotes": lambda n: text('"' + '\\"' * (n // 2) + '"'),
        "strings": lambda n: text("[" + '"a",' * (n // 4) + '"a"]'),
        "lists": lambda n: text("[" + "[]," * (n // 3) + "[]]"),
        "depth": lambda n: text("[" * (n // 2) + "]" * (n // 2)),
        "numbers": lambda n: text("[" + "1," * (n // 2) + "1]"),
        "digits": lambda n: text("9" * n),
        "spaces": lambda n: text(" " * n),
        "wide characters": lambda n: text('"' + "\N{PILE OF POO}" * (n // 4) + '"'),
    }.items():
        yield "JSON", name, make, read, 4 << 20
    yield "JSON, below 8 kB", "lists", lambda n: text("[" + "[]," * (n // 3) + "[]]"), read, 4 << 10
    yield "JSON, below 256 kB", "strings", lambda n: text("[" + '"a",' * (n // 4) + '"a"]'), read, 39_000
    yield "JSON, numbers", "of pixels", lambda n: text("[" + "[1,2,3]," * (n // 8) + "1]"), _numbers, 250_000


def _numbers(body: bytes) -> object:
    return read_object(body, numbers=True)


def _contracts() -> Iterator[Parser]:
    for name, read, before in (
        ("OpenAI", openai.read, '{"input":'),
        ("Cohere", cohere.read, '{"images":'),
        ("Voyage", voyage.read, '{"inputs":'),
        ("Weaviate", weaviate.read_clip, '{"images":'),
    ):

        def few(n: int, before: str = before) -> bytes:
            return (before + "[" + '"a",' * (n // 4) + '"a"]}').encode()

        def one(n: int, before: str = before) -> bytes:
            return f'{before}["data:;base64,{"A" * (n // 4 * 4)}"]}}'.encode()

        def ask(body: bytes, read: Callable[..., object] = read) -> object:
            return read(body, default_model="toy", limits=_LIMITS)

        yield name, "images, 30 kB", few, ask, 15_000
        yield name, "one image", one, ask, 4 << 20


def _forms() -> Iterator[Parser]:
    def read(body: bytes) -> object:
        return asyncio.run(bodies.read_form("multipart/form-data; boundary=x", _pieces(body), _LIMITS))

    part = b'--x\r\nContent-Disposition: form-data; name="a"; filename="a"\r\n\r\n'
    for name, make in {
        "one image": lambda n: part + b"a" * n + b"\r\n--x--\r\n",
        "parts": lambda n: (part + b"\r\n") * (n // 70),
        "line breaks": lambda n: part + b"\r\n" * (n // 2),
        "almost boundaries": lambda n: part + b"\r\n--" * (n // 4),
        "preamble": lambda n: b"\r\n--" * (n // 4),
        "a part's head": lambda n: b"--x\r\n" + b"a" * n,
    }.items():
        yield "multipart", name, make, read, 4 << 20
    for name, make_head in {"options": ";a=b", "a quoted string": ';a="\\"', "backslashes": "\\"}.items():

        def head(n: int, unit: str = make_head) -> str:
            return "multipart/form-data;" + unit * (n // len(unit))

        yield "Content-Type", name, head, lambda t: asyncio.run(bodies.read_form(t, _pieces(b""), _LIMITS)), 16_000


async def _pieces(body: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(body), 1 << 16):
        yield body[at : at + (1 << 16)]


def _tensors() -> Iterator[Parser]:
    def read(body: bytes) -> object:
        return _read_body(body, None, _LIMITS)

    def text(shape: str, data: str) -> bytes:
        return f'{{"inputs":[{{"name":"image","datatype":"UINT8","shape":[{shape}],"data":{data}}}]}}'.encode()

    yield (
        "KServe",
        "dimensions of 2^63",
        lambda n: text(",".join(["9223372036854775808"] * (n // 20)), "[]"),
        read,
        2 << 20,
    )
    yield "KServe", "pixels", lambda n: text("1", "[" + "[1,2,3]," * (n // 8) + "[1,2,3]]"), read, 400_000
    yield "KServe", "lists in lists", lambda n: text("1", "[" * (n // 2) + "]" * (n // 2)), read, 1000
    yield "KServe", "inputs", lambda n: b'{"inputs":[' + b'{"name":"a"},' * (n // 14) + b"{}]}", read, 100_000
    elements = b"\0\0\0\0"

    def images(data: bytes) -> object:
        return kserve.images_in(kserve.Tensor("image", "BYTES", (64,), data), max_images=64, max_bytes=1)

    yield "KServe, binary", "elements", lambda n: elements * (n // 4), images, 4 << 20


def _messages() -> Iterator[Parser]:
    def inner(number: int, payload: bytes) -> bytes:
        return field_prefix(number, len(payload)) + payload

    def embed(raw: bytes) -> object:
        return parsed(pb.EmbedRequest, raw)

    def infer(raw: bytes) -> object:
        return parsed(inference.ModelInferRequest, raw)

    yield "gRPC Embed", "images", lambda n: b"\x12\x00" * (n // 2), embed, 4 << 20
    yield "gRPC Embed", "one image", lambda n: inner(2, inner(1, b"a" * n)), embed, 4 << 20
    yield "gRPC Embed", "outputs", lambda n: inner(1, b"\x1a\x01a" * (n // 3)), embed, 4 << 20
    yield "gRPC Embed", "unknown fields", lambda n: b"\x78\x01" * (n // 2), embed, 4 << 20
    yield "gRPC Embed", "groups", lambda n: b"\x7b" * n, embed, 4 << 20
    yield "gRPC Embed", "a number of bytes", lambda n: b"\x10" + b"\xff" * n, embed, 4 << 20
    yield "gRPC Embed, below 8 kB", "images", lambda n: b"\x12\x00" * (n // 2), embed, 4000
    yield "gRPC ModelInfer", "inputs", lambda n: b"\x2a\x00" * (n // 2), infer, 4 << 20
    yield "gRPC ModelInfer", "shape", lambda n: inner(5, inner(3, b"\x01" * n)), infer, 4 << 20
    yield "gRPC ModelInfer", "numbers", lambda n: inner(5, inner(5, inner(4, b"\x01" * n))), infer, 190_000


def _recipes() -> Iterator[Parser]:
    def read(text: str) -> object:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "recipe.yaml"
            path.write_text(text, encoding="utf-8")
            return read_recipe(path)

    yield "recipe", "levels of aliases", _aliases, read, 8
    for name, unit, size in (("brackets", "[", 4000), ("comments", "#\n", 200_000), ("keys", "k%d: 1\n", 20_000)):

        def make(n: int, unit: str = unit) -> str:
            return "".join(unit % number if "%" in unit else unit for number in range(n // len(unit)))

        yield "recipe", name, make, read, size
    yield "recipe", "items", lambda n: "models: [" + "a," * (n // 2) + "a]", read, 8_000
    yield "recipe", "digits", lambda n: "models: [{version: " + "9" * n + "}]", read, 20_000
    yield "recipe", "minutes", lambda n: "models: [{version: " + "1:" * n + "1}]", read, 20_000
    yield "recipe", "more than 1 MB", lambda n: "#" * n, read, 2 << 20


def _aliases(levels: int) -> str:
    lines = ["a0: &a0 [1, 2, 3, 4, 5, 6, 7, 8, 9]"]
    return "\n".join([*lines, *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, levels))])


def _milliseconds(read: Callable[[Any], object], given: Any) -> float:
    """Return the least processor time of some rounds."""
    found = []
    for _ in range(_ROUNDS):
        start = time.thread_time()
        with contextlib.suppress(ServiceError, ExporterError):
            read(given)
        found.append(time.thread_time() - start)
    return 1000 * min(found)


def table(chosen_only: str) -> bool:
    """Print the table, and return whether no parser takes three times as long for twice as much, twice in a row."""
    report(f"{'parser':<24} {'input':<26} {'size':>9} {'ms':>9} {'twice':>9} {'ratio':>6}")
    linear = True
    for parser, name, make, read, size in _all():
        if chosen_only not in f"{parser} {name}":
            continue
        once, twice = _milliseconds(read, make(size)), _milliseconds(read, make(2 * size))
        ratio = twice / max(once, 0.01)
        # Where memory leaves a cache, or is mapped again, a single doubling costs more.
        linear &= ratio < 3 or twice < 5 or _milliseconds(read, make(4 * size)) < 3 * twice
        report(f"{parser:<24} {name:<26} {size:9} {once:9.2f} {twice:9.2f} {ratio:6.1f}")
    return linear
