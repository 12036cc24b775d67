"""ListModels and GetModel: what is served here, each model in its own words."""

import json
from dataclasses import asdict

from microtome.v1 import embedding_pb2 as pb
from service.core.manifest import ModelCard
from service.core.ports import ModelServer, available_versions
from service.errors import UnknownModel, unknown


def list_models(models: ModelServer) -> pb.ListModelsResponse:
    """Describe every model that is served here."""
    readiness = models.readiness()
    return pb.ListModelsResponse(
        models=[_described(models, name, card, ready=readiness[name] is None) for name, card in models.cards().items()]
    )


def get_model(models: ModelServer, name: str) -> pb.GetModelResponse:
    """Describe one model.

    Raises:
        UnknownModel: it is not served here.
    """
    cards = models.cards()
    if name not in cards:
        raise UnknownModel(unknown("model", name, cards))
    return pb.GetModelResponse(model=_described(models, name, cards[name], ready=models.readiness()[name] is None))


def _described(models: ModelServer, name: str, card: ModelCard | None, *, ready: bool) -> pb.Model:
    if card is None:
        return pb.Model(name=name, ready=ready)
    manifest = card.manifest
    return pb.Model(
        name=name,
        ready=ready,
        version=card.version,
        fingerprint=manifest.fingerprint,
        outputs=[pb.Output(name=o.name, layer=o.layer, pooling=o.pooling, shape=o.shape) for o in manifest.outputs],
        default_output=manifest.default_output,
        max_batch_size=manifest.max_batch_size,
        manifest_json=json.dumps(asdict(manifest)),
        versions=available_versions(models, card),
    )
