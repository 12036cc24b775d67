"""Contracts of other systems, for software that has a client for one of them.

A dialect is a module that parses its requests into a `CompatRequest`, and writes vectors and errors as its contract has
them. The `CompatHandler` does the rest, with the limits, budgets, deadlines, keys and metrics of POST /embed. To add a
dialect, write its module and add it to the table.
"""

from collections.abc import Collection, Sequence
from functools import partial

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute

from service.http.compat import cohere, huggingface, kserve, openai, voyage, weaviate
from service.http.compat.handler import CompatHandler, Dialect
from service.http.problems import ErrorWriters

ALL: tuple[Dialect, ...] = (
    openai.DIALECT,
    cohere.DIALECT,
    voyage.DIALECT,
    weaviate.IMG2VEC,
    weaviate.CLIP,
    kserve.DIALECT,
    huggingface.DIALECT,
)
"""All dialects."""


def spoken(setting: str) -> Sequence[Dialect]:
    """Read the setting of dialects: `all`, `none`, or their names, separated by commas.

    Raises:
        ValueError: an unknown name.
    """
    if setting.strip() in {"all", "none"}:
        return ALL if setting.strip() == "all" else ()
    known = {dialect.name: dialect for dialect in ALL}
    names = [name.strip() for name in setting.split(",") if name.strip()]
    if not names or not known.keys() >= set(names):
        raise ValueError(f"expected all, none, or some of {', '.join(known)}, separated by commas")
    return [known[name] for name in dict.fromkeys(names)]


def _operation(dialect: str, route: APIRoute) -> str:
    """Name an operation for generated clients: `openai_embeddings`."""
    version = "_version" if "{version}" in route.path else ""
    return f"{dialect}_{route.name}{version}"


def install(app: FastAPI, dialects: Sequence[Dialect], handler: CompatHandler) -> Collection[str]:
    """Add the dialects' routes and error writers. Returns the paths that need no API key."""
    for dialect in dialects:
        router = APIRouter(tags=[dialect.title], generate_unique_id_function=partial(_operation, dialect.name))
        dialect.add_routes(router, handler)
        app.include_router(router)
    ErrorWriters((path, dialect.write_error) for dialect in dialects for path in dialect.paths).install(app)
    return frozenset().union(*(dialect.public_paths for dialect in dialects))
