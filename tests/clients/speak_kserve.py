"""Asks a gateway as `kserve` does, in an environment that has not much else; what came goes out as JSON.

Run by test_kserve.py: ARGV is the HTTP address, the gRPC address, a key, and paths of images. tritonclient has a script
of its own, since both packages register messages of the same names.
"""

import asyncio
import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import kserve
import numpy as np

HTTP, GRPC, KEY, *PATHS = sys.argv[1:]
IMAGES = [Path(path).read_bytes() for path in PATHS]
HEADERS = {"authorization": f"Bearer {KEY}"}
MODEL = "lite0"


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


told = {
    "versions": {"kserve": version("kserve")},
    "kserve rest": asyncio.run(kserve_rest()),
    "kserve grpc": asyncio.run(kserve_grpc()),
}
sys.stdout.write(json.dumps(told))
