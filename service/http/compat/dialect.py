"""What a contract of another system consists of."""

from collections.abc import Callable
from dataclasses import dataclass

from fastapi import APIRouter

from service.http.compat.handler import Desk
from service.http.wording import Wording


@dataclass(frozen=True, slots=True)
class Dialect:
    """One contract: where it answers, how, and in what words it refuses.

    Attributes:
        name: as the setting `MICROTOME_DIALECTS` has it, in small letters.
        title: for people; its routes stand under it in the OpenAPI document.
        paths: where its words hold for errors too, those before any route included: no API key, no such path. One that
            ends with a slash stands for all below it; where several dialects share a beginning the longest wins.
        routes: builds its routes.
        wording: writes an error as the contract has it.
        open_paths: what its clients ask without a key, such as probes.
    """

    name: str
    title: str
    paths: tuple[str, ...]
    routes: Callable[[Desk], APIRouter]
    wording: Wording
    open_paths: frozenset[str] = frozenset()
