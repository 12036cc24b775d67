"""Gateways and model servers as their pods: the stated words and environment, at an address of their own."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import grpc
import httpx
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from tests.drill.stated import CONFIGURATION, MANIFESTS, MODELS, Manifests, Stated, stated
from tests.e2e.processes import Process
from tests.exported_models import REPOSITORY

KEY = "the-drill's-key"
ANY_ADDRESS = "0.0.0.0"


class Pod(Process):
    """A container of a deployment."""

    place = REPOSITORY

    def __init__(self, directory: Path, host: str, told: Stated, places: Mapping[str, str]) -> None:
        self.name = f"{type(self).name} {host}"
        super().__init__(directory)
        self.host = host
        self.pause = told.pause
        self._directory = directory
        self._told = told
        self._given = places
        self._places = {ANY_ADDRESS: host, **places}

    def successor(self) -> Self:
        """The pod that takes its place, at another address."""
        network, _, last = self.host.rpartition(".")
        return type(self)(self._directory, f"{network}.{int(last) + 20}", self._told, self._given)

    def words(self) -> list[str]:
        """The container's command and arguments."""
        return self._told.started(self._places)

    def environment(self) -> Mapping[str, str]:
        """The container's environment."""
        return self._told.surrounded(self._places)


class GatewayPod(Pod):
    """A gateway."""

    name = "gateway"

    @property
    def url(self) -> str:
        """Where it speaks HTTP."""
        return f"http://{self.host}:{self._told.ports['http']}"

    def serving(self) -> bool:
        """What its readiness probe says."""
        probe = self._told.ready["httpGet"]
        assert isinstance(probe, dict)
        url = f"http://{self.host}:{self._told.ports[probe['port']]}{probe['path']}"
        try:
            return httpx.get(url, timeout=2.0, trust_env=False).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False


class ModelServerPod(Pod):
    """A model server."""

    name = "model server"

    @property
    def address(self) -> str:
        """Where it speaks gRPC."""
        probe = self._told.ready["grpc"]
        assert isinstance(probe, dict)
        return f"{self.host}:{probe['port']}"

    def serving(self) -> bool:
        """What its readiness probe says."""
        with grpc.insecure_channel(self.address, options=(("grpc.enable_http_proxy", 0),)) as channel:
            try:
                answer = HealthStub(channel).Check(HealthCheckRequest(), timeout=2.0)
            except grpc.RpcError:
                return False
            return bool(answer.status == HealthCheckResponse.SERVING)


def gateway_pods(
    directory: Path, network: str, redis_url: str, names: str, manifests: Manifests = MANIFESTS
) -> list[GatewayPod]:
    """As many gateways as are stated; model servers are looked up at `names`."""
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    secrets = {"api-keys/keys": f"drill sha256:{digest}", "managed-redis/url": redis_url}
    told = stated("gateway", {**secrets, "managed-redis/hmac-key": "of the gateways of the drill"}, manifests)
    places = {"dns:///model-server": f"dns://{names}/model-server", CONFIGURATION: str(directory)}
    return [GatewayPod(directory, f"{network}.{11 + one}", told, places) for one in range(told.replicas)]


def model_server_pods(
    directory: Path, network: str, models: Path, manifests: Manifests = MANIFESTS
) -> list[ModelServerPod]:
    """As many model servers as are stated, all over one configuration and one models directory."""
    told = stated("model-server", {}, manifests)
    places = {CONFIGURATION: str(directory), f"--models_dir={MODELS}": f"--models_dir={models}"}
    return [ModelServerPod(directory, f"{network}.{21 + one}", told, places) for one in range(told.replicas)]
