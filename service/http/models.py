"""GET /models: what is served here, each model in its own words."""

from fastapi import APIRouter
from pydantic import BaseModel, Field

from microtome.manifest import ModelCard
from service.core.ports import ModelServer
from service.errors import of_model
from service.http.openapi import ModelAnswer, ModelsAnswer, problems


class VersionAnswer(BaseModel):
    """One version of a model, as the model server tells of it."""

    version: int
    state: str = Field(description="`start`, `loading`, `available`, `unloading`, `end` or `unknown`.")
    in_use: bool = Field(description="Whether requests that name no version go here.")


class ModelDetail(ModelAnswer):
    """One model with all its versions."""

    versions: list[VersionAnswer] = Field(
        description="Newest first; any that is `available` can be asked for by `version`. Empty while the model server "
        "cannot be reached."
    )


def models_router(models: ModelServer, default_model: str) -> APIRouter:
    """Build the routes over the catalogue of models."""
    router = APIRouter(responses=problems(401))

    @router.get("/models", summary="List the models")
    async def list_models() -> ModelsAnswer:
        """Every model served here: its version in use, its outputs, and what is done to an image first."""
        readiness = models.readiness()
        return ModelsAnswer(
            default=default_model,
            models=[_answer(name, card, readiness[name]) for name, card in models.cards().items()],
        )

    @router.get("/models/{name}", summary="Describe a model", responses=problems(404))
    async def describe_model(name: str) -> ModelDetail:
        """One model: its state, its versions, and of the one in use the outputs and what is done to an image first."""
        card = of_model(name, models.cards())
        versions = [
            VersionAnswer(version=number, state=state, in_use=card is not None and card.version == number)
            for number, state in sorted(models.versions(name).items(), reverse=True)
        ]
        return ModelDetail(**dict(_answer(name, card, models.readiness()[name])), versions=versions)

    return router


def _answer(name: str, card: ModelCard | None, trouble: str | None) -> ModelAnswer:
    return ModelAnswer(
        name=name,
        ready=trouble is None,
        detail=trouble,
        version=card.version if card else None,
        manifest=card.manifest if card else None,
    )
