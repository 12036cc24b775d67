"""Requests of known structure with hostile values, to all routes with a key, for a while: the answers and their price.

The same seed makes the same requests; those that are answered by an unexpected error are printed, to be tried alone.
"""

import json
import random
import threading
import time
from base64 import b64encode
from collections import Counter
from typing import Any
from urllib.parse import quote

from google.protobuf.descriptor import FieldDescriptor

from microtome.inference.v2 import inference_pb2 as inference
from microtome.protobuf import varint
from microtome.v1 import embedding_pb2 as pb
from tests.hostile.gateway import MEMORY, report, running
from tests.hostile.routes import Case, send, served
from tests.pictures import png

_THREADS = 3
_STALL_MS = 50
_MOST_BYTES = 16 << 20
"""Of what is repeated, and of a message: values within values multiplied to gigabytes."""

_POSTS = (
    *("/classify", "/models/toy", "/models/toy/mean"),
    *("/embed", "/v1/embeddings", "/embeddings", "/v2/embed", "/v1/multimodalembeddings", "/vectorize", "/vectors"),
    *("/v2/models/toy/infer", "/v2/models/toy/versions/1/infer"),
)
_GETS = (
    *("/", "/livez", "/readyz", "/metrics", "/docs", "/openapi.json", "/models", "/models/toy", "/v1/models"),
    *("/v1/models/toy/mean", "/v2", "/v2/health/ready", "/v2/models", "/v2/models/toy", "/v2/models/toy/versions/1"),
    *("/meta", "/.well-known/ready", "/docs-assets/swagger-ui.css"),
)
_FIELDS = (
    *(
        "image",
        "images",
        "input",
        "inputs",
        "messages",
        "content",
        "image_url",
        "image_base64",
        "url",
        "b64",
        "data_uri",
    ),
    *(
        "type",
        "text",
        "texts",
        "model",
        "version",
        "output",
        "outputs",
        "layer",
        "normalize",
        "normalized",
        "dimensions",
    ),
    *("cache", "on_error", "encoding", "encoding_format", "embedding_type", "embedding_types", "output_dtype"),
    *("output_dimension", "embed_dtype", "endianness", "modality", "id", "parameters", "name", "datatype", "shape"),
    *("priority", "data", "binary_data", "binary_data_size", "binary_data_output", "user", "input_type"),
)
_WORDS = (
    "toy",
    "mean",
    "all",
    "BYTES",
    "UINT8",
    "FP32",
    "image",
    "image_url",
    "text",
    "float",
    "base64",
    "int8",
    "use",
    "skip",
)
_HEADERS = (
    *("Accept", "Content-Type", "Content-Encoding", "Cache-Control", "X-Request-Timeout", "X-Request-ID", "Cookie"),
    *(
        "Inference-Header-Content-Length",
        "Authorization",
        "X-API-Key",
        "Host",
        "Connection",
        "Upgrade",
        "Expect",
        "Range",
    ),
)
_CALLS: dict[str, Any] = {
    "/microtome.v1.EmbeddingService/Embed": pb.EmbedRequest,
    "/microtome.v1.EmbeddingService/EmbedStream": pb.EmbedStreamRequest,
    "/microtome.v1.EmbeddingService/Classify": pb.ClassifyRequest,
    "/microtome.v1.EmbeddingService/ClassifyStream": pb.ClassifyStreamRequest,
    "/microtome.v1.EmbeddingService/GetModel": pb.GetModelRequest,
    "/inference.GRPCInferenceService/ModelInfer": inference.ModelInferRequest,
    "/inference.GRPCInferenceService/ModelReady": inference.ModelReadyRequest,
    "/inference.GRPCInferenceService/ModelMetadata": inference.ModelMetadataRequest,
}


class _Requests:
    """Makes requests of one seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._image = png()

    def next(self) -> Case:
        """Return the next request."""
        kind = self._random.random()
        if kind < 0.3:
            route = self._random.choice(list(_CALLS))
            raw = self._message(_CALLS[route].DESCRIPTOR, 3)
            return Case(route, "fuzz", lambda: raw)
        method, route = ("GET", self._random.choice(_GETS)) if kind < 0.45 else ("POST", self._random.choice(_POSTS))
        if self._maybe(0.1):
            route = f"{route}/{quote(self._text()[:2000])}"
        if self._maybe(0.2):
            route += "?" + "&".join(
                f"{quote(self._name())}={quote(self._text()[:3000])}" for _ in range(self._size(40))
            )
        headers = (
            {self._random.choice(_HEADERS): self._header() for _ in range(self._size(3))} if self._maybe(0.3) else {}
        )
        body = self._body(headers) if method == "POST" else b""
        return Case(route, "fuzz", lambda: body, method, headers)

    def _maybe(self, chance: float) -> bool:
        return self._random.random() < chance

    def _size(self, usual: int) -> int:
        """Return a number: small as a rule, large now and then."""
        return self._random.choice((1, 2, usual)) if self._maybe(0.97) else self._random.choice((1000, 30_000))

    def _name(self) -> str:
        return self._random.choice(_FIELDS) if self._maybe(0.97) else self._text()

    def _text(self) -> str:
        kind = self._random.randrange(8)
        if kind < 2:
            return self._random.choice(_WORDS)
        if kind == 2:
            return self._random.choice(("", "data:image/png;base64,")) + b64encode(self._image).decode()
        if kind == 3:
            return self._random.choice('9afA=\\"/\0\N{PILE OF POO},;&\n') * self._random.choice((1, 20, 5000))
        if kind == 4 and self._maybe(0.1):
            return self._random.choice("A\\=9") * self._random.choice((100_000, 2_000_000))
        return "http://" + "a" * self._size(30) if kind == 5 else str(self._number())

    def _number(self) -> object:
        return self._random.choice(
            (
                0,
                1,
                -1,
                2,
                3,
                255,
                256,
                2**31,
                2**53,
                2**63 - 1,
                2**63,
                2**64 - 1,
                1.5,
                1e308,
                -0.0,
                10**30,
                "9" * 5000,
                True,
            )
        )

    def _value(self, levels: int) -> object:
        kind = self._random.randrange(10)
        if levels and kind < 3:
            inner = self._value(levels - 1)
            return _repeated(
                inner, self._size(4) if not isinstance(inner, list | dict) else self._random.choice((1, 2, 70))
            )
        if levels and kind < 6:
            return {self._name(): self._value(levels - 1) for _ in range(self._random.choice((1, 2, 3)))}
        if kind < 8:
            return self._text()
        return self._random.choice((None, True, False, self._number(), [], {}))

    def _likely(self) -> object:
        """Return a body as some contract has it, with one value replaced."""
        image = b64encode(self._image).decode()
        uri = f"data:image/png;base64,{image}"
        tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [image]}
        body: dict[str, Any] = self._random.choice(
            (
                {"image": image, "model": "toy", "output": ["mean"], "version": 1, "dimensions": 2},
                {"images": [{"b64": image}, {"data_uri": uri}, {"url": "http://x/"}], "on_error": "skip"},
                {"input": [uri], "model": "toy/mean", "encoding_format": "base64", "dimensions": 2},
                {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": uri}}]}]},
                {"inputs": [{"content": [{"type": "image_base64", "image_base64": uri}]}], "output_dtype": "binary"},
                {"images": [uri], "embedding_types": ["float", "ubinary"]},
                {"id": "1", "image": image},
                {"inputs": [tensor], "outputs": [{"name": "mean"}], "parameters": {"normalize": True}},
            )
        )
        place: Any = body
        while isinstance(place, dict | list) and place:
            key = self._random.choice(list(place)) if isinstance(place, dict) else self._random.randrange(len(place))
            if self._maybe(0.4) or not isinstance(place[key], dict | list):
                place[key] = _repeated(place[key], self._size(65)) if self._maybe(0.2) else self._value(3)
                break
            place = place[key]
        return body

    def _body(self, headers: dict[str, str]) -> bytes:
        kind = self._random.random()
        if kind < 0.5:
            raw = json.dumps(self._likely()).encode()
        elif kind < 0.75:
            raw = json.dumps({self._name(): self._value(4) for _ in range(self._size(3) % 100)}).encode()
        elif kind < 0.85:
            opening, closing = self._random.choice((("[", "]"), ('{"a":', "}")))
            times = self._random.choice((100, 1000, 300_000))
            raw = f'{{"{self._name()}":{opening * times}1{closing * times}}}'.encode()
        elif kind < 0.95:
            headers.setdefault("Content-Type", "multipart/form-data; boundary=x")
            head = f'--x\r\nContent-Disposition: form-data; name="a"; filename="{self._text()[:500]}"\r\n\r\n'
            raw = (head.encode() + self._image + b"\r\n") * self._random.choice((1, 3, 65, 2000)) + b"--x--\r\n"
        else:
            raw = self._random.randbytes(self._size(300))
        return self._torn(raw[: 4 * _MOST_BYTES])

    def _torn(self, raw: bytes) -> bytes:
        if raw and self._maybe(0.1):
            at = self._random.randrange(len(raw))
            return raw[:at] + self._random.randbytes(self._random.randrange(4)) + raw[at + 1 :]
        return raw

    def _header(self) -> str:
        text = self._text()[:20_000]
        printable = "".join(letter for letter in text if letter.isascii() and letter.isprintable())
        return self._random.choice(
            (printable, f"application/json;q={printable[:40]}", "*/*", "identity", "no-cache", "1")
        )

    def _message(self, descriptor: Any, levels: int) -> bytes:
        """Return a message of known fields, right or wrong."""
        pieces: list[bytes] = []
        # Within a message few fields; around them few or many of them.
        for _ in range(self._random.choice((1, 2, 4))):
            field = self._random.choice(descriptor.fields)
            if field.type == FieldDescriptor.TYPE_MESSAGE:
                inside = self._message(field.message_type, levels - 1) if levels else b""
            elif field.type in {FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES}:
                inside = self._image if self._maybe(0.3) else self._text().encode("utf-8", "replace")
            elif self._maybe(0.5):
                number = self._random.choice((0, 1, 3, 2**31, 2**63 - 1, 2**64 - 1))
                pieces.append(varint(field.number << 3) + varint(number))
                continue
            else:
                inside = varint(self._random.choice((1, 3, 2**63 - 1))) * self._size(4)
            many = min(self._size(3) if len(inside) < 3000 else 1, _MOST_BYTES // (len(inside) + 1) or 1)
            pieces.append((varint(field.number << 3 | 2) + varint(len(inside)) + inside) * many)
        return self._torn(b"".join(pieces)[:_MOST_BYTES])


def _repeated(value: object, times: int) -> list[object]:
    return [value] * max(1, min(times, _MOST_BYTES // len(json.dumps(value))))


def table(seconds: float, seed: int) -> bool:
    """Send requests for so long, print what came of them, and return whether nothing came that must not."""
    answers: Counter[str] = Counter()
    bad: list[str] = []
    until = time.monotonic() + seconds
    with running() as gateway:
        served(gateway)
        gateway.peak()
        gateway.stalled()
        worst = [0.0, 0.0]

        def work(number: int) -> None:
            requests = _Requests(1000 * seed + number)
            while time.monotonic() < until and gateway.process.is_alive():
                case = requests.next()
                status = send(gateway, case, 30)
                answers[status] += 1
                own, _ = gateway.stalled()
                worst[0], worst[1] = max(worst[0], own), max(worst[1], collected := gateway.collected())
                if status in {"500", "INTERNAL", "UNKNOWN", "TimeoutError", "DEADLINE_EXCEEDED"} or own > _STALL_MS:
                    bad.append(
                        f"{status} {own:.0f} ms, {collected:.0f} of them to collect garbage: {case.method} "
                        f"{case.route[:200]} {case.headers} {case.body()[:300]!r}"
                    )

        threads = [threading.Thread(target=work, args=(number,)) for number in range(_THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        peak, alive = gateway.peak(), gateway.process.is_alive()
    report(f"{answers.total()} requests in {seconds:g} s, seed {seed}: {dict(answers.most_common())}")
    report(
        f"longest stall of the event loop {worst[0]:.1f} ms of the processor, longest garbage collection "
        f"{worst[1]:.1f} ms; peak {peak:.0f} of {MEMORY >> 20} MB"
    )
    for line in bad[:20]:
        report(line[:700])
    return alive and not bad
