"""What runs on the machines of a Ray cluster: one actor for each request at a time, or for each copy of the SavedModel.

Ray Data hands an actor a batch of pickled `Located` images and takes a batch of packed results.
"""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import ormsgpack

from microtome.client import errors
from microtome.client.options import NUMPY, EmbedOptions
from microtome.client.outcomes import ModelVersion, Outcome

if TYPE_CHECKING:
    from microtome.embed.images import Located

Batch = Mapping[str, Any]


class GatewayActor:
    """Asks the gateway, and waits for it however long it is away."""

    def __init__(self, url: str, api_key: str | None, ca_file: str | None, wanted: EmbedOptions) -> None:
        from microtome.client.synchronous import Client  # noqa: PLC0415, on the machine where it is used

        self._client = Client(url, api_key=api_key, ca_file=ca_file, deadline=None, attempts=None)
        self._wanted = wanted

    def __call__(self, batch: Batch) -> dict[str, Any]:
        """Embed a batch."""
        wanted = self._wanted
        images = _unpickled(batch)
        try:
            outcomes = self._client.embed_many(
                images,
                model=wanted.model,
                version=wanted.version,
                output=wanted.output,
                normalize=wanted.normalize,
                dimensions=wanted.dimensions,
                dtype=wanted.dtype,
                concurrency=1,
                batch=len(images),
            )
            return {"result": [packed(outcome) for outcome in outcomes]}
        except errors.MicrotomeError as error:
            # Ray would start the actor again; what is wrong with every image has to end the run instead.
            return {"result": [packed(Outcome(image, error=error), fatal=True) for image in images]}


class SavedModelActor:
    """Holds the SavedModel, decodes as the gateway does, and runs it: no gateway, no cache."""

    def __init__(self, directory: str, wanted: EmbedOptions) -> None:
        from microtome.embed.saved_model import SavedModelEmbedder  # noqa: PLC0415, it imports TensorFlow

        self._embedder = SavedModelEmbedder(Path(directory), wanted)

    def __call__(self, batch: Batch) -> dict[str, Any]:
        """Embed a batch."""
        return {"result": [packed(outcome) for outcome in self._embedder.embed(_unpickled(batch))]}


def _unpickled(batch: Batch) -> "list[Located]":
    return [pickle.loads(image) for image in batch["image"]]  # noqa: S301, the driver pickled them


def packed(outcome: Outcome, *, fatal: bool = False) -> bytes:
    """Write an outcome without its image."""
    model, error = outcome.model, outcome.error
    return ormsgpack.packb(
        {
            "vectors": {name: vector.tobytes() for name, vector in outcome.vectors.items()},
            "model": [model.name, model.version, model.fingerprint] if model else None,
            "error": [error.kind, str(error).encode("utf-8", "backslashreplace").decode()] if error else None,
            "fatal": fatal,
        }
    )


def unpacked(result: bytes, image: "Located", wanted: EmbedOptions) -> Outcome:
    """Read an outcome.

    Raises:
        MicrotomeError: what would be wrong with every image.
    """
    document = ormsgpack.unpackb(result)
    if document["error"]:
        error = errors.named(*document["error"])
        if document["fatal"]:
            raise error
        return Outcome(image, error=error)
    vectors = {name: np.frombuffer(body, NUMPY[wanted.dtype]) for name, body in document["vectors"].items()}
    return Outcome(image, vectors=vectors, model=ModelVersion(*document["model"]))
