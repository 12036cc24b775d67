"""What the manifests of deploy/kubernetes ship: replicas, limits, autoscaling, budgets; read from them, not typed."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import yaml

from bench.load.corpus import REPOSITORY
from exporter.recipe.resolved import DEFAULT_MAX_BATCH_SIZE
from service.settings import PREFIX, Settings

KUBERNETES = REPOSITORY / "deploy" / "kubernetes"
BATCHING = REPOSITORY / "deploy" / "tfserving" / "batching.config"

_UNITS = {
    "": 1.0,
    "m": 1e-3,
    "Ki": 2.0**10,
    "Mi": 2.0**20,
    "Gi": 2.0**30,
    # Redis' own, see its configuration file.
    "kb": 2.0**10,
    "mb": 2.0**20,
    "gb": 2.0**30,
}
_QUANTITY = re.compile(r"([0-9.]+)([A-Za-z]*)")

Manifest = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Workload:
    """Pods of one kind.

    Attributes:
        replicas: As shipped.
        most: As many as the autoscaler makes of them, where that component is used.
        requested: Cores that a pod is sure to have.
        limit: Cores that a pod may use; infinite without a limit.
        memory: Bytes that a pod may use.
        lasting: Of `replicas`, those that serve while a new release is rolled out.
    """

    replicas: int
    most: int
    requested: float
    limit: float
    memory: float
    lasting: int


@dataclass(frozen=True, slots=True)
class Shipped:
    """The shipped cluster.

    Attributes:
        gateway: Its pods.
        server: Those of model servers on CPUs.
        gpu_server: The same with the component `gpu`; one GPU each.
        redis: Its pod.
        utilization: Part of the requested cores at which the autoscaler adds gateways.
        workers: Processes, each with an event loop, of a gateway.
        slots: Calls of a model that a gateway has under way at each model server.
        batch: Images in a call at most.
        in_flight: Images that a gateway computes at a time at most.
        body_bytes: Bytes of bodies that a gateway holds at a time at most.
        server_threads: Cores that a model server computes on at most.
        batch_threads: Batches that a model server runs at a time.
        calls: Calls that a model server has open at a time at most.
        redis_bytes: Memory for vectors.
        ttl: Seconds that a vector stays in Redis.
    """

    gateway: Workload
    server: Workload
    gpu_server: Workload
    redis: Workload
    utilization: float
    workers: int
    slots: int
    batch: int
    in_flight: int
    body_bytes: int
    server_threads: int
    batch_threads: int
    calls: int
    redis_bytes: float
    ttl: float

    @classmethod
    def read(cls, kubernetes: Path = KUBERNETES, batching: Path = BATCHING) -> "Shipped":
        """Read the base and the components `autoscaling` and `gpu`.

        Raises:
            SystemExit: A manifest, or a value in one, is not where it was.
        """
        base, scaling, gpu = (kubernetes / name for name in ("base", "components/autoscaling", "components/gpu"))
        gateway, server = (find(base, "Deployment", name) for name in ("gateway", "model-server"))
        redis, on_gpu = find(base, "Deployment", "redis"), find(gpu, "Deployment", "model-server")
        scaler, scaled = (
            find(scaling, "HorizontalPodAutoscaler", "gateway"),
            find(scaling, "ScaledObject", "model-server"),
        )
        most = int(scaled["spec"]["maxReplicaCount"])
        arguments, valkey = _container(server)["args"], _container(redis)["args"]
        settings = _settings(base / "gateway.env")
        return cls(
            gateway=_workload(gateway, most=int(scaler["spec"]["maxReplicas"])),
            server=_workload(server, most=most),
            gpu_server=_workload(server, on_gpu, most=most),
            redis=_workload(redis, most=1),
            utilization=scaler["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"] / 100,
            workers=int(settings["workers"]),
            slots=int(settings["inference_slots"]),
            batch=DEFAULT_MAX_BATCH_SIZE,
            in_flight=int(settings["max_images_in_flight"]),
            body_bytes=int(settings["max_body_bytes_in_flight"]),
            server_threads=int(_argument(arguments, "--tensorflow_intra_op_parallelism")),
            batch_threads=int(
                _searched(r"num_batch_threads \{ value: ([0-9]+) \}", batching.read_text(encoding="utf-8"))
            ),
            calls=int(_argument(arguments, "--grpc_max_threads")),
            redis_bytes=quantity(valkey[valkey.index("--maxmemory") + 1]),
            ttl=float(settings["redis_ttl"]),
        )


def surviving(replicas: int, zones: int = 3) -> int:
    """Return the replicas that the loss of a zone leaves, where it takes the most it can: they are spread evenly."""
    return replicas - ceil(replicas / zones)


def quantity(text: object) -> float:
    """Return the number of a Kubernetes quantity, or of one of Redis' sizes.

    Raises:
        SystemExit: It is neither.
    """
    found = _QUANTITY.fullmatch(str(text))
    if found is None or found[2] not in _UNITS:
        raise SystemExit(f"Expected a quantity such as 200m, 2, 1Gi or 1gb. Received {text!r}.")
    return float(found[1]) * _UNITS[found[2]]


def find(folder: Path, kind: str, name: str) -> Manifest:
    """Return the one manifest of this kind and name below a folder.

    Raises:
        SystemExit: There is none, or several.
    """
    found = [each for each in _documents(folder) if each.get("kind") == kind and each["metadata"]["name"] == name]
    if len(found) != 1:
        raise SystemExit(f"Expected one {kind} {name!r} below {folder}. Received {len(found)}.")
    return found[0]


def _documents(folder: Path) -> Iterator[Manifest]:
    for path in sorted(folder.rglob("*.yaml")):
        yield from (each for each in yaml.safe_load_all(path.read_text(encoding="utf-8")) if isinstance(each, dict))


def _container(manifest: Manifest) -> Manifest:
    name = manifest["metadata"]["name"]
    found: Manifest = next(each for each in manifest["spec"]["template"]["spec"]["containers"] if each["name"] == name)
    return found


def _workload(manifest: Manifest, patch: Manifest | None = None, *, most: int) -> Workload:
    """Describe a deployment, with what a component patches."""
    spec, resources = manifest["spec"], _container(patch or manifest)["resources"]
    strategy = {**spec["strategy"], **(patch or {}).get("spec", {}).get("strategy", {})}
    limits, replicas = resources["limits"], int(spec["replicas"])
    # Recreate ends all of them before the first new one starts.
    unavailable = int(strategy["rollingUpdate"]["maxUnavailable"]) if "rollingUpdate" in strategy else replicas
    return Workload(
        replicas,
        most,
        quantity(resources["requests"]["cpu"]),
        quantity(limits["cpu"]) if "cpu" in limits else float("inf"),
        quantity(limits["memory"]),
        replicas - unavailable,
    )


def _settings(path: Path) -> dict[str, Any]:
    """Return the gateway's settings: the defaults, and what the manifests set."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    pairs = dict(line.split("=", 1) for line in lines if line.startswith(PREFIX))
    given = {name.removeprefix(PREFIX).lower(): value for name, value in pairs.items()}
    return {**{name: field.default for name, field in Settings.model_fields.items()}, **given}


def _argument(arguments: list[str], name: str) -> str:
    return _searched(rf"^{name}=(\S+)$", "\n".join(arguments))


def _searched(pattern: str, text: str) -> str:
    found = re.search(pattern, text, re.MULTILINE)
    if found is None:
        raise SystemExit(f"Expected {pattern} in the manifests of deploy/. Received none.")
    return found[1]
