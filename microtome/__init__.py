"""What other programs import: the Python client, and the generated stubs of the wire contracts."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from microtome.client.async_client import AsyncClient
    from microtome.client.client import Client
    from microtome.client.images import Cropped, Text
    from microtome.client.results import Outcome, Prediction

__version__ = "0.1.0"
__all__ = ["AsyncClient", "Client", "Cropped", "Outcome", "Prediction", "Text", "__version__"]

_MODULES = {
    "AsyncClient": "microtome.client.async_client",
    "Client": "microtome.client.client",
    "Cropped": "microtome.client.images",
    "Outcome": "microtome.client.results",
    "Prediction": "microtome.client.results",
    "Text": "microtome.client.images",
}


def __getattr__(name: str) -> object:
    # Lazy, so that importing the stubs or the command does not import the client.
    import importlib  # noqa: PLC0415

    if name not in _MODULES:
        raise AttributeError(f"module 'microtome' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
