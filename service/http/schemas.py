"""The shapes of answers, for the OpenAPI document. Answers are encoded by hand, and a test holds them to these."""

from typing import Any, Literal

from pydantic import BaseModel, Field

from microtome.manifest import Manifest


class EmbeddingAnswer(BaseModel):
    """One image's vector from one output."""

    index: int = Field(description="Of the image, in the order of the request.")
    output: str
    dim: int = Field(description="Numbers in the vector.")
    vector: list[float] | str = Field(
        description="float32; for an output that is not pooled, row by row. With `encoding=base64` little-endian bytes."
    )
    cache: Literal["hit", "miss", "coalesced"] = Field(description="Where the vector came from.")


class ImageFault(BaseModel):
    """What is wrong with one image; a problem of its own."""

    index: int = Field(description="Of the image, in the order of the request.")
    type: str
    title: str
    status: int
    detail: str


class EmbedAnswer(BaseModel):
    """Vectors, all from the same version of the same model."""

    model: str
    version: int
    fingerprint: str = Field(description="Names everything that can move a vector. Vectors of one fingerprint compare.")
    embeddings: list[EmbeddingAnswer] = Field(description="By image, then in the order of the outputs asked for.")
    errors: list[ImageFault] = Field(description="With `on_error=skip`: the images that have no vectors.")


class ModelAnswer(BaseModel):
    """One model, as it is served now."""

    name: str
    ready: bool
    detail: str | None = Field(description="What is wrong, while it is not ready.")
    version: int | None = Field(description="The version that requests go to now; null before the first has answered.")
    manifest: Manifest | None


class ModelsAnswer(BaseModel):
    """All models of this server."""

    default: str = Field(description="Who answers when a request names no model.")
    models: list[ModelAnswer]


class Readiness(BaseModel):
    """Whether an inference has recently worked for every model."""

    ready: bool
    models: dict[str, str | None] = Field(description="By name: null, or what is wrong.")
    dependencies: dict[str, str | None] = Field(
        description="What the gateway stands on, such as `model_server` and `redis`: null, or what is wrong. Whether "
        "it is ready depends on the models alone."
    )


class Problem(BaseModel):
    """An error, after RFC 9457."""

    type: str = Field(examples=["urn:microtome:problem:unknown-model"], description="Stable; switch on this.")
    title: str
    status: int
    detail: str = Field(description="What was expected, what came, what to do.")
    errors: list[dict[str, Any]] | None = Field(None, description="When every image failed: why, image by image.")
    request_id: str | None = Field(None, description="To ask the operator about; with unexpected errors only.")
