"""GET /models: what is served here, each model in its own words."""

from fastapi import APIRouter

from service.embedding.ports import ModelServer
from service.http_api.schemas import ModelAnswer, ModelsAnswer


def models_router(models: ModelServer, default_model: str) -> APIRouter:
    """Build the route over the catalogue of models."""
    router = APIRouter()

    @router.get("/models", summary="List the models")
    async def list_models() -> ModelsAnswer:
        """Every model served here: its version in use, its outputs, and what is done to an image first."""
        readiness = models.readiness()
        return ModelsAnswer(
            default=default_model,
            models=[
                ModelAnswer(
                    name=name,
                    ready=readiness[name] is None,
                    detail=readiness[name],
                    version=card.version if card else None,
                    manifest=card.manifest if card else None,
                )
                for name, card in models.cards().items()
            ],
        )

    return router
