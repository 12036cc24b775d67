"""Asks a gateway as `tritonclient` does, in an environment that has not much else; what came goes out as JSON.

Run by test_kserve.py: ARGV is the HTTP address, the gRPC address, a key, and paths of images. kserve has a script of
its own, since both packages register messages of the same names.
"""

import asyncio
import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http

HTTP, GRPC, KEY, *PATHS = sys.argv[1:]
IMAGES = [Path(path).read_bytes() for path in PATHS]
# Copied for each call: the HTTP client writes its own into what it is given.
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
        return bool(client.is_model_ready("nix", headers=dict(HEADERS)))
    except triton.InferenceServerException:
        return False


def triton_sync(triton: Any, address: str) -> dict[str, Any]:
    """Everything that a user of tritonclient does, over HTTP or gRPC alike."""
    with triton.InferenceServerClient(address) as client:
        # gRPC's answers are messages unless asked otherwise, HTTP's never.
        form = {} if triton is tritonclient.http else {"as_json": True}
        told = client.get_model_metadata(MODEL, headers=dict(HEADERS), **form)
        default = client.infer(MODEL, [images(triton)], headers=dict(HEADERS), request_id="mine")
        named = client.infer(
            MODEL,
            [images(triton)],
            outputs=[triton.InferRequestedOutput("embedding")],
            parameters={"normalize": True, "dimensions": 64},
            headers=dict(HEADERS),
        )
        classes = client.infer(
            MODEL,
            [images(triton)],
            outputs=[triton.InferRequestedOutput("classes", class_count=3)],
            headers=dict(HEADERS),
        )
        drawn = client.infer(MODEL, [pixels(triton)], headers=dict(HEADERS))
        try:
            client.infer("nix", [images(triton)], headers=dict(HEADERS))
        except triton.InferenceServerException as error:
            refused = {"class": type(error).__name__, "message": str(error)}
        first = told["outputs"][0]["name"]
        return {
            "live": client.is_server_live(headers=dict(HEADERS)),
            "ready": client.is_server_ready(headers=dict(HEADERS)),
            "model_ready": client.is_model_ready(MODEL, headers=dict(HEADERS)),
            "absent_ready": absent_ready(triton, client),
            "server": client.get_server_metadata(headers=dict(HEADERS), **form)["name"],
            "default": default.as_numpy(first).tolist(),
            "named": named.as_numpy("embedding").tolist(),
            "classes": [[word.decode() for word in row] for row in classes.as_numpy("classes")],
            "pixels": list(drawn.as_numpy(first).shape),
            "refused": refused,
        }


async def triton_aio(address: str) -> dict[str, Any]:
    """The asynchronous gRPC client."""
    triton = tritonclient.grpc.aio
    async with triton.InferenceServerClient(address) as client:
        answers = await asyncio.gather(
            *(client.infer(MODEL, [images(tritonclient.grpc)], headers=dict(HEADERS)) for _ in range(4))
        )
        told = await client.get_model_metadata(MODEL, headers=dict(HEADERS), as_json=True)
        first = told["outputs"][0]["name"]
        return {"answers": [answer.as_numpy(first).tolist() for answer in answers]}


told = {
    "versions": {"tritonclient": version("tritonclient")},
    "triton http": triton_sync(tritonclient.http, HTTP),
    "triton grpc": triton_sync(tritonclient.grpc, GRPC),
    "triton grpc aio": asyncio.run(triton_aio(GRPC)),
}
sys.stdout.write(json.dumps(told))
