"""grpc.health.v1: of the gateway ("" and the service's name), as /readyz, and of each model by its name."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2 as pb
from grpc_health.v1.health_pb2_grpc import HealthServicer

from service.core.ports import ModelServer

_POLL_SECONDS = 0.2
"""Seconds between two polls of the models for a watcher."""


class Health(HealthServicer):  # type: ignore[misc]  # its package ships no types
    """Answers from the models' readiness; while the gateway stops, nothing is ready."""

    def __init__(self, models: ModelServer, service: str) -> None:
        self._models = models
        self._whole = ("", service)
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Report everything as not serving, and end the watches."""
        self._stopping.set()

    async def Check(self, request: Any, context: Any) -> Any:  # noqa: ANN401, N802, as above
        """Return whether a name serves now."""
        status = self._status(request.service)
        if status == pb.HealthCheckResponse.SERVICE_UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"Known: {', '.join(map(repr, self._names()))}.")
        return pb.HealthCheckResponse(status=status)

    async def Watch(self, request: Any, _: Any) -> AsyncIterator[Any]:  # noqa: ANN401, N802
        """Return whether a name serves, now and at every change, until the gateway stops."""
        last = None
        while True:
            stopping = self._stopping.is_set()
            status = self._status(request.service)
            if status != last:
                last = status
                yield pb.HealthCheckResponse(status=status)
            if stopping:
                return
            try:
                async with asyncio.timeout(_POLL_SECONDS):
                    await self._stopping.wait()
            except TimeoutError:
                pass

    async def List(self, _: Any, __: Any) -> Any:  # noqa: ANN401, N802
        """Return all statuses."""
        statuses = {name: pb.HealthCheckResponse(status=self._status(name)) for name in self._names()}
        return pb.HealthListResponse(statuses=statuses)

    def _names(self) -> list[str]:
        return [*self._whole, *self._models.readiness()]

    def _status(self, name: str) -> int:
        readiness = self._models.readiness()
        if name in self._whole:
            ready = all(trouble is None for trouble in readiness.values())
        elif name in readiness:
            ready = readiness[name] is None
        else:
            return int(pb.HealthCheckResponse.SERVICE_UNKNOWN)
        serves = ready and not self._stopping.is_set()
        return int(pb.HealthCheckResponse.SERVING if serves else pb.HealthCheckResponse.NOT_SERVING)
