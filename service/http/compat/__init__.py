"""Contracts of other systems, spoken beside our own so that software which has a client for them needs no other.

A dialect is a module that translates: its requests into a `Question` for the core, the core's vectors and errors into
its answers. The `Desk` does what lies between, so that limits, budgets, deadlines, keys and metrics are those of
POST /embed. To add one, write its module and put it into the table.
"""

from collections.abc import Collection, Sequence

from fastapi import FastAPI

from service.http import wording
from service.http.compat import cohere, kserve, openai, voyage, weaviate
from service.http.compat.dialect import Dialect
from service.http.compat.handler import Desk

ALL: tuple[Dialect, ...] = (
    openai.DIALECT,
    cohere.DIALECT,
    voyage.DIALECT,
    weaviate.IMG2VEC,
    weaviate.CLIP,
    kserve.DIALECT,
)
"""Every dialect that there is."""


def spoken(setting: str) -> Sequence[Dialect]:
    """Read which dialects are wanted: `all`, `none`, or their names, separated by commas.

    Raises:
        ValueError: there is no dialect of one of the names.
    """
    if setting.strip() in {"all", "none"}:
        return ALL if setting.strip() == "all" else ()
    known = {dialect.name: dialect for dialect in ALL}
    names = [name.strip() for name in setting.split(",") if name.strip()]
    if not names or not known.keys() >= set(names):
        raise ValueError(f"expected all, none, or some of {', '.join(known)}, separated by commas")
    return [known[name] for name in dict.fromkeys(names)]


def install(app: FastAPI, dialects: Sequence[Dialect], desk: Desk) -> Collection[str]:
    """Add the dialects' routes, and let each word what fails at its paths. Returns the paths that need no API key."""
    for dialect in dialects:
        app.include_router(dialect.routes(desk), tags=[dialect.title])
    wording.install(app, wording.Wordings((path, dialect.wording) for dialect in dialects for path in dialect.paths))
    return frozenset().union(*(dialect.open_paths for dialect in dialects))
