"""A model server in this process, whose vectors can be told by looking at the pixels."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import inf
from typing import Any

import numpy as np

from microtome.errors import (
    BadRequest,
    DeadlineExceeded,
    ModelNotReady,
    ModelServerFault,
    ServiceError,
    UnknownModel,
    UnknownVersion,
)
from microtome.manifest import Backbone, InputSpec, Label, Manifest, ModelCard, OutputSpec, TokenizerSpec, TokensSpec
from service.core.ports import Family, Pixels, Tokens, Towers, Vectors
from service.core.timeouts import Deadline
from service.core.timings import Stages, unobserved
from service.errors import unknown
from service.model_server.client import bulk_call

SIZE = 8

POISON = 77
"""An image that is all of this grey has vectors that are not finite."""


def card(version: int = 1, name: str = "toy", *, max_batch_size: int = 4) -> ModelCard:
    """Describe a model of two outputs: each channel's `mean`, and `corner`, the first pixel and the version."""
    spec = InputSpec(SIZE, SIZE, "squash", None, "bilinear", "none", exif_orientation=True, decode="exact")
    outputs = tuple(
        OutputSpec(output, "layer", "avg", None, (dim,), "float32", params=0, flops=None, quantization=None)
        for output, dim in (("mean", 3), ("corner", 4))
    )
    return ModelCard(
        name,
        version,
        Manifest(
            schema=1,
            model=name,
            fingerprint=f"sha256:{version:064x}",
            backbone=Backbone("Toy", "none", "made here"),
            input=spec,
            outputs=outputs,
            default_output="mean",
            max_batch_size=max_batch_size,
            created="2026-01-01T00:00:00Z",
            versions={},
        ),
    )


def towers(version: int = 1) -> Towers:
    """Describe the towers `toy` and `words` of the family `pair`: of a text, `mean` is its first three characters."""
    plain, space = card(version), f"sha256:{version:064d}"
    told = replace(plain.manifest, family="pair", space=space)
    spec = TokensSpec(LETTERS, 256, 0, lowercase=False, tokenizer=TokenizerSpec("0" * 64, 1, 1))
    text = replace(told, model="words", fingerprint=f"sha256:{version:064d}", input=spec, tower="text")
    return Towers(replace(plain, manifest=told), ModelCard("words", version, text, _letters))


LETTERS = 5
"""Length of a text of that family."""


def _letters(text: str) -> Tokens:
    ids = np.zeros(LETTERS, np.int32)
    found = text.encode()[:LETTERS]
    ids[: len(found)] = list(found)
    return ids


def classes_card(**more: Any) -> ModelCard:
    """The same model, whose output `mean` is said to have classes."""
    plain = card()
    labels = (Label("red", "r0"), Label("green"), Label("blue", "b2"))
    outputs = tuple(
        replace(o, kind="classes", labels=labels, activation="softmax", temperature=1.0, **more)
        if o.name == "mean"
        else o
        for o in plain.manifest.outputs
    )
    return ModelCard(plain.name, plain.version, replace(plain.manifest, outputs=outputs, default_output="corner"))


class FakeModelServer:
    """Serves one version at a time, remembers the calls, and fails when told to."""

    def __init__(self, first: ModelCard, words: ModelCard | None = None) -> None:
        self.current = first
        self.words = words
        """The text tower of its family."""
        self.calls: list[tuple[int, tuple[str, ...], int]] = []
        self.arrived = 0
        """Calls that have come, answered or not."""
        self.deadlines: list[float] = []
        """Until when each of them may take."""
        self.bulk: list[bool] = []
        """Whether each of them is a bulk one, as the model server would be told."""
        self.failure: ServiceError | None = None
        self.gate = asyncio.Event()
        """Cleared, it holds every inference back until it is set."""
        self.gate.set()
        self.others: dict[int, str] = {}
        """Versions that are not in use, with their states."""
        self.next: ModelCard | None = None
        self.next_words: ModelCard | None = None
        """Set it, and this version takes the place of the current one before the next inference."""

    async def called(self, times: int) -> None:
        """Wait until so many calls have come, answered or not."""
        while self.arrived < times:  # noqa: ASYNC110, polled like any other process
            await asyncio.sleep(0)

    def card(self, model: str) -> ModelCard:
        """Return the version in use."""
        if self.words and model == self.words.name:
            return self.words
        if model not in {self.current.name, *self.families()}:
            raise UnknownModel(unknown("model", model, self.readiness()))
        return self.current

    def cards(self) -> Mapping[str, ModelCard | None]:
        """Return the only model, or both towers."""
        return {card.name: card for card in (self.current, self.words) if card}

    def readiness(self) -> Mapping[str, str | None]:
        """Return what is wrong, if anything."""
        return dict.fromkeys([*self.cards(), *self.families()], str(self.failure) if self.failure else None)

    def versions(self, model: str) -> Mapping[int, str]:
        """Return the version in use, and the others."""
        if model not in self.cards():
            raise UnknownModel(unknown("model", model, self.cards()))
        return {**self.others, self.card(model).version: "available"}

    def engines(self, card: ModelCard) -> Sequence[str]:
        """Return a sentence about the version in use."""
        return [f"a fake: {card.name} is simple"]

    def towers(self, model: str) -> Towers:
        """Return the pair of the family, or the only model."""
        return Towers(self.current, self.words) if model in self.families() else Towers.alone(self.card(model))

    def families(self) -> Mapping[str, Family]:
        """Return the family, if there is one."""
        trouble = str(self.failure) if self.failure else None
        return {"pair": Family(Towers(self.current, self.words), trouble)} if self.words else {}

    async def renewed(self, card: ModelCard, model: str = "") -> ModelCard:
        """Return the version in use now."""
        return self.card(model or card.name)

    async def card_of(self, model: str, version: int) -> ModelCard:
        """Return the version in use if it is that one."""
        if model in self.families():
            raise BadRequest("Expected `version` with the name of one model.")
        current = self.card(model)
        if current.version != version:
            raise UnknownVersion(f"Model {model!r} has no version {version}. Available: {current.version}.")
        return current

    async def infer(
        self,
        card: ModelCard,
        outputs: Sequence[str],
        images: Sequence[Pixels | Tokens],
        stages: Stages = unobserved,
        deadline: Deadline | None = None,
    ) -> Mapping[str, Vectors]:
        """Compute the outputs from the pixels, or from the characters."""
        self.deadlines.append(deadline.at if deadline else inf)
        self.bulk.append(bulk_call.get())
        if deadline and deadline.left() <= 0:
            raise DeadlineExceeded("Too late.")
        stages("infer", 0.0)
        pixels: Any = np.stack(images)
        self.arrived += 1
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        self.current, self.next = self.next or self.current, None
        self.words, self.next_words = self.next_words or self.words, None
        if card.version != self.card(card.name).version:
            raise ModelNotReady(f"No version {card.version}.")
        spec = card.manifest.input
        size = (spec.height, spec.width, 3) if isinstance(spec, InputSpec) else (spec.length,)
        if pixels.shape[1:] != size or not len(pixels) <= card.manifest.max_batch_size:
            raise ModelServerFault(f"Wrong pixels: {pixels.shape}.")
        self.calls.append((card.version, tuple(outputs), len(pixels)))
        constant = np.full((len(pixels), 1), card.version)
        if card.manifest.tower == "text":
            letters = {"mean": pixels[:, :3], "corner": np.hstack([pixels[:, :3], constant])}
            return {name: letters[name].astype(np.float32) for name in outputs}
        if spoiled := np.flatnonzero((pixels == POISON).all(axis=(1, 2, 3))).tolist():
            raise ModelServerFault("Not finite.", rows=spoiled)
        everything = {"mean": pixels.mean(axis=(1, 2)), "corner": np.hstack([pixels[:, 0, 0], constant])}
        return {name: everything[name].astype(np.float32) for name in outputs}
