"""What other people import: the Python client, and the generated stubs of our wire contracts."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from microtome.client.asynchronous import AsyncClient
    from microtome.client.outcomes import Outcome
    from microtome.client.synchronous import Client

__version__ = "0.1.0"
__all__ = ["AsyncClient", "Client", "Outcome", "__version__"]

_HOMES = {
    "AsyncClient": "microtome.client.asynchronous",
    "Client": "microtome.client.synchronous",
    "Outcome": "microtome.client.outcomes",
}


def __getattr__(name: str) -> object:
    # Lazily, since the stubs and the command are here too, and their users pay for what they use.
    import importlib  # noqa: PLC0415

    if name not in _HOMES:
        raise AttributeError(f"module 'microtome' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
