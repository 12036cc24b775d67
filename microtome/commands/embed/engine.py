"""Engines, which embed a run's images; the one here asks a gateway from threads of this process."""

import time
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, Protocol

from microtome.client.client import Client
from microtome.client.errors import ModelNotReady
from microtome.client.options import EmbedOptions
from microtome.client.results import Outcome
from microtome.client.retries import Retry
from microtome.commands.embed.errors import EmbedError
from microtome.commands.embed.keyed_images import KeyedImage
from microtome.commands.embed.progress import Progress

_POLL_SECONDS = 1.0


def vector_options(wanted: EmbedOptions) -> dict[str, Any]:
    """Return the keyword arguments of `embed_many`."""
    found = asdict(wanted)
    del found["classes"]
    return found


class Engine(Protocol):
    """Embeds images in order, in bounded memory."""

    def identify(self, model: str | None) -> tuple[str, int | None]:
        """Return the name of a model, or of the first for None, and its version in use; no version of two towers.

        Raises:
            EmbedError: there is no such model.
        """
        ...

    def outcomes(self, images: Iterator[KeyedImage], wanted: EmbedOptions) -> Iterator[Outcome]:
        """Embed images; the `image` of each outcome has the key of its source.

        Raises:
            MicrotomeError: an error that concerns every image.
        """
        ...

    def close(self) -> None:
        """Close all connections."""
        ...


class GatewayEngine:
    """Asks a gateway, and waits for it however long it is away."""

    def __init__(self, options: Namespace, progress: Progress) -> None:
        self._options = options
        self._progress = progress
        self._client = Client(
            options.url,
            api_key=options.api_key,
            ca_file=options.ca_file,
            deadline=None,
            attempts=None,
            on_retry=progress.retrying,
        )

    def identify(self, model: str | None) -> tuple[str, int | None]:
        """Return the name of a model, or of the first for None, and its version in use; wait until it has one.

        The towers of a model of images and text have versions of their own, and None is returned for them.

        Raises:
            EmbedError: there is no such model.
        """
        while True:
            known = self._client.models()
            found = next((info for info in known if model in {None, info.name}), None)
            if found is None:
                names = ", ".join(info.name for info in known) or "none"
                raise EmbedError(f"Expected --model to be one of {names}. Received {model!r}.")
            if found.version:
                return found.name, None if found.towers else found.version
            not_ready = ModelNotReady(f"{found.name} has no version ready at {self._options.url}")
            self._progress.retrying(Retry(not_ready, attempt=2, pause=_POLL_SECONDS))
            time.sleep(_POLL_SECONDS)

    def outcomes(self, images: Iterator[KeyedImage], wanted: EmbedOptions) -> Iterator[Outcome]:
        """Embed or classify images over several connections at a time."""
        options = self._options
        if wanted.classes is None:
            return self._client.embed_many(
                images, concurrency=options.concurrency, batch=options.batch, **vector_options(wanted)
            )
        return self._client.classify_many(
            images,
            output=wanted.output,
            concurrency=options.concurrency,
            batch=options.batch,
            model=wanted.model,
            version=wanted.version,
            priority=wanted.priority,
            **{name: value for name, value in asdict(wanted.classes).items() if value != ()},
        )

    def close(self) -> None:
        """Close all connections."""
        self._client.close()
