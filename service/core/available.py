"""Which versions of a model can be asked for now."""

from microtome.manifest import ModelCard
from service.core.ports import ModelServer

_AVAILABLE = "available"


def available(models: ModelServer, card: ModelCard) -> list[int]:
    """Return the numbers of all versions that requests can name, from the lowest.

    While the model server cannot be asked only the one in use is known: its cached vectors are still answered.
    """
    known = models.versions(card.name)
    return sorted({card.version, *(number for number, state in known.items() if state == _AVAILABLE)})
