"""Envoy before the gateways: HTTP and gRPC at one port, each to its own, as an ingress would.

Which gateways there are is a file that Envoy watches, as an ingress controller follows endpoints. It retries only what
no gateway has begun to answer, and looks at readiness by itself as well.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

from tests.deploy.tools import tool
from tests.e2e.processes import Process, free_port

HTTP2 = {
    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
}


class Balancer(Process):
    """Envoy; `use` says which gateways there are."""

    name = "envoy"

    def __init__(self, directory: Path, host: str, ports: dict[str, int], ready: dict[str, Any]) -> None:
        super().__init__(directory)
        self._directory = directory
        self._ports = ports
        self._ready = ready
        self.address = f"{host}:{free_port()}"
        self._admin = f"{host}:{free_port()}"
        self._configuration = directory / "envoy.json"

    def words(self) -> list[str]:
        """One thread is enough."""
        self._configuration.write_text(json.dumps(self._bootstrap()), encoding="utf-8")
        return [
            tool("envoy"),
            "--config-path",
            str(self._configuration),
            "--concurrency",
            "1",
            # Another Envoy on this machine has the socket of the default one.
            "--use-dynamic-base-id",
            "--log-level",
            "warning",
        ]

    def serving(self) -> bool:
        """Whether it knows its gateways."""
        try:
            return httpx.get(f"http://{self._admin}/ready", trust_env=False).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    def use(self, hosts: Sequence[str]) -> None:
        """Send requests to these gateways from now on."""
        for kind in ("http", "grpc"):
            ends = [{"endpoint": self._endpoint(kind, host)} for host in hosts]
            kind_url = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
            told = {"resources": [{"@type": kind_url, "cluster_name": kind, "endpoints": [{"lb_endpoints": ends}]}]}
            draft = self._directory / f".{kind}.json"
            draft.write_text(json.dumps(told), encoding="utf-8")
            # Envoy watches for files that are moved into place.
            draft.rename(self._endpoints(kind))

    def _endpoint(self, kind: str, host: str) -> dict[str, Any]:
        health = {"port_value": self._ports["http"]}
        return {"address": _socket(f"{host}:{self._ports[kind]}"), "health_check_config": health}

    def _endpoints(self, kind: str) -> Path:
        return self._directory / f"{kind}.json"

    def _bootstrap(self) -> dict[str, Any]:
        return {
            "node": {"id": "drill", "cluster": "drill"},
            "admin": {"address": _socket(self._admin)},
            "static_resources": {
                "listeners": [{"address": _socket(self.address), "filter_chains": [{"filters": [_filter()]}]}],
                "clusters": [self._cluster("http"), self._cluster("grpc")],
            },
        }

    def _cluster(self, kind: str) -> dict[str, Any]:
        probe = self._ready
        check = {
            "timeout": f"{probe['timeoutSeconds']}s",
            "interval": f"{probe['periodSeconds']}s",
            "unhealthy_threshold": probe["failureThreshold"],
            "healthy_threshold": 1,
            "http_health_check": {"path": probe["httpGet"]["path"]},
        }
        return {
            "name": kind,
            "type": "EDS",
            "connect_timeout": "1s",
            "eds_cluster_config": {"eds_config": {"path_config_source": {"path": str(self._endpoints(kind))}}},
            # Who is taken off the file is left at once, and who is not ready is never asked, however few others are.
            "ignore_health_on_host_removal": True,
            "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
            # Whether a gateway is ready is asked at its HTTP port, for its gRPC port too.
            "health_checks": [check],
            **({"typed_extension_protocol_options": HTTP2} if kind == "grpc" else {}),
        }


def _filter() -> dict[str, Any]:
    kind = "type.googleapis.com/envoy.extensions.filters"
    grpc = [{"name": "content-type", "string_match": {"prefix": "application/grpc"}}]
    return {
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": f"{kind}.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "drill",
            "codec_type": "AUTO",
            "http_filters": [
                {
                    "name": "envoy.filters.http.router",
                    "typed_config": {"@type": f"{kind}.http.router.v3.Router"},
                }
            ],
            "route_config": {
                "virtual_hosts": [
                    {
                        "name": "all",
                        "domains": ["*"],
                        "routes": [_route("grpc", {"headers": grpc}), _route("http", {})],
                    }
                ]
            },
        },
    }


def _route(cluster: str, match: dict[str, Any]) -> dict[str, Any]:
    retries = {"retry_on": "connect-failure,refused-stream,reset-before-request", "num_retries": 2}
    return {"match": {"prefix": "/", **match}, "route": {"cluster": cluster, "timeout": "35s", "retry_policy": retries}}


def _socket(address: str) -> dict[str, Any]:
    host, _, port = address.rpartition(":")
    return {"socket_address": {"address": host, "port_value": int(port)}}
