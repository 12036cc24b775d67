"""Each route with a body or a head that is large in one way: bytes, elements, depth, digits."""

import asyncio
import http.client
import json
import time
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import grpc

from microtome.inference.v2 import inference_pb2 as inference
from microtome.protobuf import field_prefix
from microtome.v1 import embedding_pb2 as pb
from tests.hostile.gateway import KEY, MEMORY, Running, report, running
from tests.pictures import png

_MB = 1 << 20
_LARGE = 10 * _MB
_AFTER = 0.1
_HEADERS = {"Authorization": f"Bearer {KEY}"}
_EMBED = "/microtome.v1.EmbeddingService/Embed"
_STREAM = "/microtome.v1.EmbeddingService/EmbedStream"
_INFER = "/inference.GRPCInferenceService/ModelInfer"
_JSON = "application/json"


@dataclass(frozen=True)
class Case:
    """One request.

    Attributes:
        route: a path of HTTP, or the whole name of a gRPC method.
        large: in which way.
        body: makes it; of HTTP its body, of gRPC its message.
    """

    route: str
    large: str
    body: Callable[[], bytes] = bytes
    method: str = "POST"
    headers: Mapping[str, str] = field(default_factory=dict)


def _many(text: str, size: int = _LARGE) -> str:
    return ",".join([text] * (size // (len(text) + 1)))


def _nested(opening: str, closing: str, size: int = _LARGE) -> str:
    times = size // (len(opening) + len(closing))
    return opening * times + "0" + closing * times


def _inner(number: int, payload: bytes) -> bytes:
    return field_prefix(number, len(payload)) + payload


# Each contract's place of images: what comes before it, what an image is, and what comes after.
_CONTRACTS = {
    "/embed": ('{"images":[', '{"b64":"AAAA"}', "]}"),
    "/v1/embeddings": ('{"input":[', '"data:;base64,AAAA"', "]}"),
    "/v2/embed": ('{"images":[', '"data:;base64,AAAA"', "]}"),
    "/v1/multimodalembeddings": ('{"inputs":[', '{"content":[{"type":"image_url","image_url":"http://x"}]}', "]}"),
    "/vectorize": ('{"images":[', '"a"', "]}"),
    "/vectors": ('{"id":"1","image":[', '"a"', "]}"),
    "/v2/models/toy/infer": (
        '{"inputs":[{"name":"image","datatype":"BYTES","shape":[1],"data":[',
        '"AAAA"',
        "]}]}",
    ),
}


def cases() -> Iterator[Case]:
    """Yield every case."""
    headers = {"Content-Type": _JSON}
    for route, (before, image, after) in _CONTRACTS.items():
        for large, inside in _large(image):
            yield Case(route, large, f"{before}{inside}{after}".encode, headers=headers)
        yield Case(route, "digits: version", lambda: json.dumps({"version": "9" * 5000}).encode(), headers=headers)
    yield from _kserve()
    yield from _forms()
    yield from _heads()
    yield from _calls()


def _large(image: str) -> Iterator[tuple[str, str]]:
    """Yield what stands in the place of a contract's images."""
    yield "bytes: one image of 20 MB", _filled(image, b64encode(bytes(20 * _MB)).decode())
    yield "bytes: a text of 60 MB", f'"{"a" * 60 * _MB}"'
    yield "bytes: escapes, 10 MB", _filled(image, "\\/" * (_LARGE // 2))
    yield "elements: images, 10 MB", _many(image)
    yield 'elements: "a", 10 MB', _many('"a"')
    yield "elements: [], 10 MB", _many("[]")
    yield 'elements: {"a":{}}, 10 MB', _many('{"a":{}}')
    yield "elements: images, 200 kB", _many(image, 200_000)
    yield "depth: [, 10 MB", _nested("[", "]")
    yield 'depth: {"a":, 1000 levels', _nested('{"a":', "}", 6_000)
    yield "digits: a number of 10 MB", "9" * _LARGE


def _filled(image: str, text: str) -> str:
    return image.replace("AAAA", text).replace('"a"', f'"{text}"').replace("http://x", f"data:;base64,{text}")


def _kserve() -> Iterator[Case]:
    infer, headers = "/v2/models/toy/infer", {"Content-Type": _JSON}
    head = '{"inputs":[{"name":"image","datatype":"UINT8","shape":[%s],"data":[%s]}]}'
    shape = head.replace("UINT8", "BYTES") % (f"1,{_many('9223372036854775808', 4 * _MB)}", '"AAAA"')
    yield Case(infer, "dimensions: 200,000 of 2^63", shape.encode)
    yield Case(infer, "elements: numbers, 10 MB", (head % ("1,256,256,3", _many("255"))).encode, headers=headers)
    pixels = json.dumps([[[[200, 30, 4]] * 256] * 256])[1:-1]
    yield Case(infer, "elements: 256 by 256 pixels", (head % ("1,256,256,3", pixels)).encode, headers=headers)
    yield Case(infer, "elements: outputs, 10 MB", lambda: b'{"outputs":[%b]}' % _many('{"name":"a"}').encode())
    for digits in ("9" * 5000, "0" * 5000, "1" * 20):
        name = f"digits: header, {len(digits)}"
        yield Case(infer, name, lambda: b"{}", headers={"Inference-Header-Content-Length": digits})
        yield Case(
            f"/v2/models/toy/versions/{digits}/infer", f"digits: version, {len(digits)}", lambda: b'{"inputs":[]}'
        )
        yield Case(f"/v2/models/toy/versions/{digits}", f"digits: version, {len(digits)}", method="GET")


def _forms() -> Iterator[Case]:
    part = b'--x\r\nContent-Disposition: form-data; name="a"; filename="a"\r\n\r\n%b\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    yield Case("/embed", "form, bytes: 60 MB", lambda: part % bytes(60 * _MB) + b"--x--\r\n", headers=headers)
    yield Case("/embed", "form, elements: parts, 10 MB", lambda: part % b"" * (_LARGE // 70), headers=headers)
    yield Case("/embed", "form, almost boundaries", lambda: part % (b"\r\n--" * (_LARGE // 4)), headers=headers)
    yield Case("/embed", "form, preamble", lambda: b"\r\n" * (_LARGE // 2), headers=headers)
    yield Case("/embed", "form, a part's head", lambda: b"--x\r\n" + b"a" * _LARGE, headers=headers)
    yield Case(
        "/embed", "form, content type", lambda: part, headers={"Content-Type": "multipart/form-data;" + 'a="\\' * 7000}
    )
    yield Case("/embed", "bytes: no image, 20 MB", lambda: bytes(20 * _MB - 1))


def _heads() -> Iterator[Case]:
    for route in ("/embed", "/models", "/livez"):
        method = "POST" if route == "/embed" else "GET"
        for name, text in {
            "elements: output=, 30 kB": "&".join(["output=a"] * 3300),
            "elements: output=, 65 kB": "&".join(["output=a"] * 7200),
            "elements: &, 30 kB": "&" * 30_000,
            "digits: version": f"version={'9' * 5000}",
            "bytes: model": f"model={'a' * 30_000}",
        }.items():
            yield Case(f"{route}?{text}", f"query, {name}", method=method)
        for name, header in {
            "cookie, 30 kB": ("Cookie", 'a="' + "\\\\" * 15_000 + '"'),
            "accept, 30 kB": ("Accept", "a/b;q=1," * 3_700),
            "timeout, digits": ("X-Request-Timeout", "9" * 30_000),
            "traceparent": ("traceparent", "0" * 30_000),
            "request id": ("X-Request-ID", "a" * 30_000),
            "host": ("X-Forwarded-Host", "[" * 30_000),
        }.items():
            yield Case(route, f"header, {name}", method=method, headers=dict([header]))
    for route in ("/models/%s", "/v1/models/%s", "/v2/models/%s", "/v2/models/%s/ready", "/%s"):
        yield Case(route % ("a" * 30_000), "path, bytes", method="GET")
        yield Case(route % ("a/" * 15_000), "path, elements", method="GET")
        yield Case(route % ("%41" * 10_000), "path, escapes", method="GET")
        yield Case(route % ("9" * 5_000), "path, digits", method="GET")


def _calls() -> Iterator[Case]:
    image = _inner(1, png())
    for large, raw in {
        "bytes: 60 MB": lambda: _inner(2, _inner(1, bytes(60 * _MB))),
        "elements: images, 10 MB": lambda: b"\x12\x00" * (_LARGE // 2),
        "elements: outputs, 10 MB": lambda: _inner(1, b"\x1a\x01a" * (_LARGE // 3)) + _inner(2, image),
        "elements: unknown, 10 MB": lambda: b"\x78\x01" * (_LARGE // 2),
        "depth: groups, 10 MB": lambda: b"\x7b" * (_LARGE // 2) + b"\x7c" * (_LARGE // 2),
        "digits: varints": lambda: b"\x10" + b"\xff" * _LARGE,
    }.items():
        yield Case(_EMBED, large, raw)
    yield Case(_STREAM, "elements: more, 10 MB", lambda: b"\x22\x00" * (_LARGE // 2))
    tensor = _inner(1, b"image") + _inner(2, b"BYTES")
    for large, raw in {
        "elements: inputs, 10 MB": lambda: b"\x2a\x00" * (_LARGE // 2),
        "elements: parameters, 10 MB": lambda: b"\x22\x00" * (_LARGE // 2),
        "elements: raw contents, 10 MB": lambda: b"\x3a\x00" * (_LARGE // 2),
        "elements: numbers, 10 MB": lambda: _inner(5, tensor + _inner(5, _inner(4, b"\x01" * _LARGE))),
        "elements: numbers, 390 kB": lambda: _inner(
            5,
            _inner(1, b"image")
            + _inner(2, b"UINT8")
            + _inner(3, b"\x01\x01\x01\x03")
            + _inner(5, _inner(4, b"\x01" * 390_000)),
        ),
        "dimensions: 460,000 of 2^63": lambda: _inner(
            5, tensor + _inner(3, b"\x01" + (b"\xff" * 8 + b"\x7f") * (4 * _MB // 9))
        ),
        "dimensions: 5,000 of 2^63": lambda: _inner(5, tensor + _inner(3, b"\x01" + (b"\xff" * 8 + b"\x7f") * 5_000)),
        "digits: version": lambda: inference.ModelInferRequest(
            model_name="toy",
            model_version="9" * 5000,
            inputs=[inference.ModelInferRequest.InferInputTensor()]
            if hasattr(inference.ModelInferRequest, "InferInputTensor")
            else [inference.InferInputTensor()],
        ).SerializeToString(),
        "bytes: raw contents of 60 MB": lambda: _inner(5, tensor + _inner(3, b"\x01")) + _inner(7, bytes(60 * _MB)),
    }.items():
        yield Case(_INFER, large, raw)
    for name in ("/inference.GRPCInferenceService/ModelReady", "/inference.GRPCInferenceService/ModelMetadata"):
        yield Case(
            name,
            "digits: version",
            lambda: inference.ModelReadyRequest(name="toy", version="9" * 5000).SerializeToString(),
        )
        yield Case(name, "bytes: 10 MB", lambda: _inner(1, b"a" * _LARGE))
    yield Case(
        "/microtome.v1.EmbeddingService/GetModel",
        "bytes: 10 MB",
        lambda: pb.GetModelRequest(name="a" * _LARGE).SerializeToString(),
    )


def send(gateway: Running, case: Case, seconds: float = 120) -> str:
    """Send a request and return how it was answered."""
    return _call(gateway, case, seconds) if case.route.count(".") else _post(gateway, case, seconds)


def _post(gateway: Running, case: Case, seconds: float) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", gateway.http, timeout=seconds)
    try:
        connection.request(case.method, case.route, case.body(), {**_HEADERS, **case.headers})
        answer = connection.getresponse()
        answer.read()
    except (OSError, http.client.HTTPException) as error:
        return type(error).__name__
    finally:
        connection.close()
    return str(answer.status)


def _call(gateway: Running, case: Case, seconds: float) -> str:
    with grpc.insecure_channel(f"127.0.0.1:{gateway.grpc}", [("grpc.max_send_message_length", -1)]) as channel:
        method: Any = channel.stream_stream(case.route)
        try:
            list(method(iter([case.body()]), metadata=(("authorization", f"Bearer {KEY}"),), timeout=seconds))
        except grpc.RpcError as error:
            call: Any = error
            return str(call.code().name)
    return "OK"


async def _until_served(gateway: Running) -> None:
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", gateway.http)
        except OSError:
            await asyncio.sleep(0.05)
        else:
            writer.close()
            return


def served(gateway: Running) -> None:
    """Wait until it serves."""
    asyncio.run(_until_served(gateway))


def table(chosen: str) -> bool:
    """Print the table of all cases whose route or name has `chosen` in it, and return whether all was well."""
    report(
        f"memory limit {MEMORY >> 20} MB; stall: the longest turn of the event loop, of the processor and by the clock"
    )
    report(f"{'route':<44} {'what is large':<38} {'answer':<20} {'peak MB':>8} {'CPU ms':>7} {'clock ms':>8}")
    well = True
    with running() as gateway:
        served(gateway)
        send(gateway, Case("/embed", "warm", png))
        for case in cases():
            if chosen not in case.route and chosen not in case.large:
                continue
            gateway.peak()
            gateway.stalled()
            status = send(gateway, case)
            # What is freed after the answer holds the loop, too.
            time.sleep(_AFTER)
            if not gateway.process.is_alive():
                report(f"{case.route[:44]:<44} {case.large:<38} {status:<20} the gateway died")
                return False
            own, clock = gateway.stalled()
            report(
                f"{case.route[:44]:<44} {case.large:<38} {status:<20} {gateway.peak():8.0f} {own:7.1f} {clock:8.1f}",
            )
            well &= status not in {"500", "INTERNAL", "UNKNOWN"}
    return well
