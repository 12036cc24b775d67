"""Asks a gateway as `tritonclient` and `kserve` do, in an environment that has only these; what came goes out as JSON.

Run by test_kserve.py: ARGV is the HTTP address, the gRPC address, a key, and paths of images.
"""

import asyncio
import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import kserve
import numpy as np
import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http

HTTP, GRPC, KEY, *PATHS = sys.argv[1:]
IMAGES = [Path(path).read_bytes() for path in PATHS]
HEADERS = {"authorization": f"Bearer {KEY}"}
MODEL = "lite0"
PIXELS = (np.arange(2 * 30 * 40 * 3) % 251).astype(np.uint8).reshape(2, 30, 40, 3)


def images(triton: Any) -> Any:
    """The images as a tensor of encoded bytes."""
    made = triton.InferInput("image", [len(IMAGES)], "BYTES")
    made.set_data_from_numpy(np.array(IMAGES, dtype=object))
    return made


def pixels(triton: Any) -> Any:
    """Pictures as a tensor of pixels."""
    made = triton.InferInput("image", list(PIXELS.shape), "UINT8")
    made.set_data_from_numpy(PIXELS)
    return made


def absent_ready(triton: Any, client: Any) -> bool:
    """Whether a model that there is not is ready; over gRPC the question itself fails."""
    try:
        return bool(client.is_model_ready("nix", headers=HEADERS))
    except triton.InferenceServerException:
        return False


def triton_sync(triton: Any, address: str) -> dict[str, Any]:
    """Everything that a user of tritonclient does, over HTTP or gRPC alike."""
    with triton.InferenceServerClient(address) as client:
        # gRPC's answers are messages unless asked otherwise, HTTP's never.
        form = {} if triton is tritonclient.http else {"as_json": True}
        told = client.get_model_metadata(MODEL, headers=HEADERS, **form)
        default = client.infer(MODEL, [images(triton)], headers=HEADERS, request_id="mine")
        named = client.infer(
            MODEL,
            [images(triton)],
            outputs=[triton.InferRequestedOutput("embedding")],
            parameters={"normalize": True, "dimensions": 64},
            headers=HEADERS,
        )
        drawn = client.infer(MODEL, [pixels(triton)], headers=HEADERS)
        try:
            client.infer("nix", [images(triton)], headers=HEADERS)
        except triton.InferenceServerException as error:
            refused = {"class": type(error).__name__, "message": str(error)}
        first = told["outputs"][0]["name"]
        return {
            "live": client.is_server_live(headers=HEADERS),
            "ready": client.is_server_ready(headers=HEADERS),
            "model_ready": client.is_model_ready(MODEL, headers=HEADERS),
            "absent_ready": absent_ready(triton, client),
            "server": client.get_server_metadata(headers=HEADERS, **form)["name"],
            "default": default.as_numpy(first).tolist(),
            "named": named.as_numpy("embedding").tolist(),
            "pixels": list(drawn.as_numpy(first).shape),
            "refused": refused,
        }


async def triton_aio(address: str) -> dict[str, Any]:
    """The asynchronous gRPC client."""
    triton = tritonclient.grpc.aio
    async with triton.InferenceServerClient(address) as client:
        answers = await asyncio.gather(
            *(client.infer(MODEL, [images(tritonclient.grpc)], headers=HEADERS) for _ in range(4))
        )
        told = await client.get_model_metadata(MODEL, headers=HEADERS, as_json=True)
        first = told["outputs"][0]["name"]
        return {"answers": [answer.as_numpy(first).tolist() for answer in answers]}


def request(binary: bool) -> kserve.InferRequest:
    """The images as kserve writes them."""
    made = kserve.InferInput(name="image", shape=[len(IMAGES)], datatype="BYTES")
    made.set_data_from_numpy(np.array(IMAGES, dtype=object), binary_data=binary)
    return kserve.InferRequest(model_name=MODEL, infer_inputs=[made])


async def kserve_rest() -> dict[str, Any]:
    """Kserve's REST client."""
    client = kserve.InferenceRESTClient(kserve.RESTConfig(protocol="v2"))
    url = f"http://{HTTP}"
    answer = await client.infer(url, request(binary=True), model_name=MODEL, headers=HEADERS)
    return {
        "live": await client.is_server_live(url, headers=HEADERS),
        "ready": await client.is_server_ready(url, headers=HEADERS),
        "model_ready": await client.is_model_ready(url, MODEL, headers=HEADERS),
        "default": answer.outputs[0].as_numpy().tolist(),
    }


async def kserve_grpc() -> dict[str, Any]:
    """Kserve's gRPC client."""
    client = kserve.InferenceGRPCClient(GRPC)
    metadata = tuple(HEADERS.items())
    answer = await client.infer(request(binary=True), headers=metadata)
    return {
        "live": await client.is_server_live(headers=metadata),
        "ready": await client.is_server_ready(headers=metadata),
        "model_ready": await client.is_model_ready(MODEL, headers=metadata),
        "default": answer.outputs[0].as_numpy().tolist(),
    }


sys.stdout.write(
    json.dumps(
        {
            "versions": {name: version(name) for name in ("tritonclient", "kserve")},
            "triton http": triton_sync(tritonclient.http, HTTP),
            "triton grpc": triton_sync(tritonclient.grpc, GRPC),
            "triton grpc aio": asyncio.run(triton_aio(GRPC)),
            "kserve rest": asyncio.run(kserve_rest()),
            "kserve grpc": asyncio.run(kserve_grpc()),
        }
    )
)
