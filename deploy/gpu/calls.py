"""Calls of a model server over gRPC, with the gateway's own messages, and the inputs that they send."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from google.protobuf.wrappers_pb2 import Int64Value
from numpy.typing import NDArray
from PIL import Image

from microtome.colors import MODES
from microtome.golden import golden_pixels, relative_l2
from microtome.manifest import ModelCard
from microtome.tfserving.v1.predict_pb2 import ModelSpec, PredictResponse
from service.model_server.predict_encoding import (
    IMAGES,
    pixels_tensor,
    predict_request,
    query_tensor,
    read_manifest,
    vectors,
)

OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
)
SECONDS = 120.0
_SEED = 2
"""Of the synthetic images; 1 is that of the golden vectors."""

Array = NDArray[Any]
Vectors = Mapping[str, Array]


class Caller:
    """A channel of its own to a model server."""

    def __init__(self, address: str, *options: tuple[str, int]) -> None:
        self.channel = grpc.insecure_channel(address, options=[*OPTIONS, *options])
        self._predict: grpc.UnaryUnaryMultiCallable[bytes, PredictResponse] = self.channel.unary_unary(
            "/tensorflow.serving.PredictionService/Predict", response_deserializer=PredictResponse.FromString
        )

    def __enter__(self) -> "Caller":
        return self

    def __exit__(self, *_: object) -> None:
        self.channel.close()

    def card(self, model: str) -> ModelCard:
        """Return the newest version that is loaded."""
        spec = ModelSpec(name=model, signature_name="manifest")
        answer = self._predict(predict_request(spec, {"query": query_tensor()}, []), timeout=SECONDS)
        return ModelCard(model, answer.model_spec.version.value, read_manifest(model, answer))

    def predict(self, card: ModelCard, images: Array, outputs: Sequence[str] | None = None) -> Vectors:
        """Run a version on images, uint8 [N, height, width, 3]; all outputs unless some are named."""
        names = list(card.outputs) if outputs is None else list(outputs)
        spec = ModelSpec(name=card.name, version=Int64Value(value=card.version), signature_name="serving_default")
        request = predict_request(spec, {IMAGES: pixels_tensor(list(images))}, names)
        return vectors(self._predict(request, timeout=SECONDS), card, names, len(images))

    def batches(self, card: ModelCard, images: Array, size: int) -> Vectors:
        """Run a version on images in batches of a size, the last filled up with the first images."""
        rows = np.arange(-(-len(images) // size) * size) % len(images)
        answers = [self.predict(card, images[part]) for part in rows.reshape(-1, size)]
        return {name: np.concatenate([answer[name] for answer in answers])[: len(images)] for name in card.outputs}

    def watch_health(self, seconds: float) -> str:
        """Keep a call open over which nothing is sent; return why it ended, or nothing when it lasted."""
        watch: grpc.UnaryStreamMultiCallable[bytes, bytes] = self.channel.unary_stream("/grpc.health.v1.Health/Watch")
        call = watch(b"", timeout=seconds)
        try:
            for _ in call:
                pass
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                return f"{error.code().name}: {error.details()}"
        return ""


def inputs(card: ModelCard, photos: Sequence[Path]) -> Array:
    """Return photos, and as many synthetic images as make nine, every other one mostly noise."""
    spec = card.manifest.pixels
    size, mode = (spec.width, spec.height), MODES[spec.color]
    read = [np.asarray(Image.open(path).convert(mode).resize(size), np.uint8) for path in photos]
    return np.concatenate(
        [np.stack(read).reshape(-1, *spec.shape), golden_pixels(_SEED, 0, 9 - len(read), *spec.shape)]
    )


def worst(some: Vectors, others: Vectors) -> tuple[float, str]:
    """Return the largest relative L2 difference of any vector, and its output."""
    return max((float(relative_l2(some[name], others[name]).max()), name) for name in some)


def worst_angle(some: Vectors, others: Vectors) -> float:
    """Return the largest 1 - cosine of any vector."""
    found = []
    for name, one in some.items():
        left, right = (np.asarray(side, np.float64).reshape(len(side), -1) for side in (one, others[name]))
        lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
        found.append(float((1 - (left * right).sum(axis=1) / lengths).max()))
    return max(found)
