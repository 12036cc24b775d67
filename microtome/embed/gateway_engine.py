"""The engine of one machine: threads that ask a gateway, and wait for it however long it is away."""

import time
from collections.abc import Iterator
from typing import Self

from microtome.client.errors import ModelNotReady
from microtome.client.options import EmbedOptions
from microtome.client.outcomes import ModelInfo, Outcome
from microtome.client.retrying import Retry
from microtome.client.synchronous import Client
from microtome.embed.arguments import Options
from microtome.embed.errors import EmbedError
from microtome.embed.images import Located
from microtome.embed.progress import Progress

_LOOK_AGAIN = 1.0


class GatewayEngine:
    """Asks a gateway."""

    def __init__(self, options: Options, progress: Progress) -> None:
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

    def identify(self, model: str | None) -> tuple[str, int]:
        """Return the name of a model, of the first for None, and its version in use; wait until it has one.

        Raises:
            EmbedError: there is no such model.
        """
        while True:
            known = self._client.models()
            found = next((info for info in known if model in {None, info.name}), None)
            if found is None:
                raise EmbedError(_unknown(model, known))
            if found.version:
                return found.name, found.version
            not_ready = ModelNotReady(f"{found.name} has no version ready at {self._options.url}")
            self._progress.retrying(Retry(not_ready, attempt=2, pause=_LOOK_AGAIN))
            time.sleep(_LOOK_AGAIN)

    def outcomes(self, images: Iterator[Located], wanted: EmbedOptions) -> Iterator[Outcome]:
        """Embed images over several connections at a time."""
        return self._client.embed_many(
            images,
            model=wanted.model,
            version=wanted.version,
            output=wanted.output,
            normalize=wanted.normalize,
            dimensions=wanted.dimensions,
            dtype=wanted.dtype,
            concurrency=self._options.concurrency,
            batch=self._options.batch,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()


def _unknown(model: str | None, known: list[ModelInfo]) -> str:
    return f"Expected --model to be one of {', '.join(info.name for info in known) or 'none'}. Received {model!r}."
