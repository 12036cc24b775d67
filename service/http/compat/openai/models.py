"""GET /v1/models: the models, and each of their outputs under the name by which it can be asked for."""

from collections.abc import Iterator
from datetime import datetime

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from microtome.manifest import ModelCard
from service.core.ports import ModelServer
from service.errors import UnknownModel, unknown


def models_router(models: ModelServer) -> APIRouter:
    """Build the routes over the catalogue of models."""
    router = APIRouter()

    @router.get("/v1/models", summary="List the models", response_class=Response)
    async def list_models() -> Response:
        """Every model, and every output of it as `model/output`. Some are in use only by their default output."""
        return JSONResponse({"object": "list", "data": list(_entries(models))})

    @router.get("/v1/models/{name:path}", summary="Describe a model", response_class=Response)
    async def describe_model(name: str) -> Response:
        """One model, or one output of it."""
        entries = {entry["id"]: entry for entry in _entries(models)}
        if name not in entries:
            raise UnknownModel(unknown("model", name, map(str, entries)))
        return JSONResponse(entries[name])

    return router


def _entries(models: ModelServer) -> Iterator[dict[str, object]]:
    for name, card in models.cards().items():
        yield _entry(name, card, card.manifest.default_output if card else None)
        if card is not None:
            for output in card.outputs:
                yield _entry(f"{name}/{output}", card, output)


def _entry(name: str, card: ModelCard | None, output: str | None) -> dict[str, object]:
    entry: dict[str, object] = {"id": name, "object": "model", "created": 0, "owned_by": "microtome"}
    if card is None or output is None:
        return entry
    spec = card.outputs[output]
    return {
        **entry,
        "created": int(datetime.fromisoformat(card.manifest.created).timestamp()),
        "dimensions": spec.dim,
        "layer": spec.layer,
        "version": card.version,
        "fingerprint": card.manifest.fingerprint,
    }
