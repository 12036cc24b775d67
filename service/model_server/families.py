"""Families: an image tower and a text tower that requests name together, and which of their versions are used.

A pair has one space, so that vectors of its images and texts can be compared. While the versions in use of both models
are no pair, as when one tower alone is replaced, the pair before them is used as long as both of its versions are
served, and then the newest pair among all versions that are. Where there is none, what has to be computed waits for
one: an image of one space and a text of another would be stored together. Cached vectors of the last pair are answered.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from microtome.errors import ModelNotReady
from microtome.manifest import ModelCard
from service.core.ports import Family, Towers
from service.model_server.replicas import Replicas
from service.model_server.versions import AVAILABLE, same
from service.telemetry.logs import Logger
from service.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from service.model_server.watcher import ModelState


@dataclass(slots=True)
class _State:
    """What is known of one family.

    Attributes:
        members: names of its models.
        towers: the pair in use.
        split: why it cannot compute; empty while it can.
    """

    members: Sequence[str] = ()
    towers: Towers | None = None
    split: str = "Its towers are being read. Try again in a few seconds."


class Families:
    """The families of the models that are served, and the pairs in use."""

    def __init__(
        self, servers: Replicas, models: "Mapping[str, ModelState]", *, wait: float, metrics: Metrics, log: Logger
    ) -> None:
        """Know nothing yet.

        Args:
            servers: the model servers.
            models: all models by name, kept up to date by the watcher.
            wait: seconds for a version to be read, when a pair is looked for.
            metrics: show whether a family is ready.
            log: told of changes.
        """
        self._servers = servers
        self._models = models
        self._wait = wait
        self._metrics = metrics
        self._log = log
        self._states: dict[str, _State] = {}
        self._hidden: set[str] = set()
        self._settling = asyncio.Lock()
        self._renewing: asyncio.Task[None] | None = None

    def __contains__(self, name: str) -> bool:
        """Whether there is a family of this name."""
        return name in self._states

    def named(self) -> Mapping[str, Sequence[str]]:
        """Return the names of each family's models, by its name."""
        return {name: state.members for name, state in self._states.items()}

    def towers(self, name: str) -> Towers:
        """Return the pair in use.

        Raises:
            ModelNotReady: there has been none yet.
        """
        state = self._states[name]
        if state.towers is None:
            raise ModelNotReady(state.split, retry_after=2)
        return state.towers

    def all(self, troubles: Mapping[str, str | None]) -> dict[str, Family]:
        """Return all families by name.

        Args:
            troubles: what is wrong with each model.
        """
        return {
            name: Family(
                state.towers,
                state.split or next((found for its in state.members if (found := troubles.get(its))), None),
            )
            for name, state in self._states.items()
        }

    async def renewed(self, name: str) -> None:
        """Choose again, since a version of the pair in use is gone.

        Raises:
            ModelNotReady: there is no pair now.
        """
        # One look for all requests that met the same version's end.
        if self._renewing is None or self._renewing.done():
            self._renewing = asyncio.create_task(self.settle())
        await asyncio.shield(self._renewing)
        if (state := self._states.get(name)) and state.split:
            raise ModelNotReady(state.split, retry_after=2)

    async def settle(self) -> None:
        """Choose the pair of each family."""
        async with self._settling:
            members = self._members()
            for name in [known for known in self._states if known not in members or known in self._models]:
                del self._states[name]
                self._metrics.model_dropped(name)
            for name, names in members.items():
                if name not in self._models:
                    await self._settle(name, names)
                elif name not in self._hidden:
                    self._hidden.add(name)
                    self._log.warning("model_family_hidden", family=name, models=names, by="the model of that name")

    def _members(self) -> dict[str, list[str]]:
        """Return the models of each family that has both towers here; one that is served alone is a model as any."""
        cards = {name: model.card for name, model in self._models.items() if model.card and model.card.manifest.family}
        found: dict[str, list[str]] = {}
        for name, card in cards.items():
            found.setdefault(card.manifest.family or "", []).append(name)
        return {
            family: names for family, names in found.items() if len({cards[name].manifest.tower for name in names}) > 1
        }

    async def _settle(self, name: str, names: Sequence[str]) -> None:
        state = self._states.setdefault(name, _State())
        state.members = names
        in_use = {its: [model.card] for its in names if (model := self._models.get(its)) and model.card}
        found = _pair(in_use) or self._kept(state)
        if found is None:
            found = _pair({its: await self._served(its) for its in names})
        if found is None:
            told = ", ".join(f"{its} {model.card.version}" for its in names if (model := self._models[its]).card)
            state.split = (
                f"Family {name!r} has no image tower and text tower of one space now; there are {told}. Try again when "
                "both towers of one export are served; each of them answers by its own name."
            )
        else:
            state.split = ""
            if state.towers != found:
                versions = {card.name: card.version for card in found.cards}
                self._log.info("model_family", family=name, towers=versions, space=found.cards[0].manifest.space)
                state.towers = found
        self._metrics.model_ready.labels(name).set(not state.split)

    def _kept(self, state: _State) -> Towers | None:
        """Return the pair in use while both of its versions are served."""
        towers = state.towers
        return towers if towers and all(self._servers.serving(card) for card in towers.cards) else None

    async def _served(self, name: str) -> list[ModelCard]:
        """Return all versions of a model that are served: the one in use first, then from the newest."""
        model = self._models.get(name)
        if model is None:
            return []  # dropped meanwhile
        found: list[ModelCard] = []
        for number in sorted((number for number, state in model.versions.items() if state == AVAILABLE), reverse=True):
            cards, _ = await self._servers.cards(name, number, wait=self._wait)
            found += [card for card, _ in cards]
        in_use = model.card
        return sorted(found, key=lambda card: in_use is None or not same(card, in_use))


def _pair(cards: Mapping[str, Sequence[ModelCard]]) -> Towers | None:
    """Return the best pair of one space: of the most preferred versions, and of equally good ones the older.

    Args:
        cards: of each model, the most preferred version first.
    """
    found = [
        ((i + j, image.version, text.version), image, text)
        for images in cards.values()
        for i, image in enumerate(images)
        if image.manifest.tower == "image"
        for texts in cards.values()
        for j, text in enumerate(texts)
        if text.manifest.tower == "text" and text.manifest.space == image.manifest.space is not None
    ]
    if not found:
        return None
    _, image, text = min(found, key=lambda one: one[0])
    return Towers(image, text)
