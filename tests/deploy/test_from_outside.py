"""What is reached from outside: every way to embed, and nothing of the operators'."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.deploy.manifests import Manifest, container, documented, find, render, render_in
from tests.unit.service.http.conftest import gateway_with

INSIDE = {"/", "/livez", "/readyz", "/health", "/healthz", "/metrics"}
"""Operations, and Weaviate's and KServe's own words for them; documentation is read inside as well."""

MANIFESTS = render(("production", "gateway-api"))


def rule(kind: str, name: str) -> Any:
    """The one rule of a route."""
    (only,) = find(MANIFESTS, kind, name)["spec"]["rules"]
    return only


def outside() -> list[str]:
    """The prefixes that the HTTPRoute leads to the gateway."""
    paths = [match["path"] for match in rule("HTTPRoute", "gateway")["matches"]]
    assert {"PathPrefix"} == {path["type"] for path in paths}
    return [path["value"] for path in paths]


def reached(path: str) -> bool:
    """Whether a path lies under a prefix, element by element as the Gateway API compares them."""
    return any(f"{path}/".startswith(f"{prefix}/") for prefix in outside())


async def test_every_way_to_embed_is_reached_from_outside() -> None:
    """Those of other systems' clients too: a route that is added has a path in the HTTPRoute."""
    with ThreadPoolExecutor(1) as decoders:
        async with gateway_with(decoders, dialects="all") as gateway:
            paths = (await gateway.client.get("/openapi.json")).json()["paths"]
    posted = [path for path, ways in paths.items() if "post" in ways]
    assert {"/embed", "/v1/embeddings", "/v2/embed"} <= set(posted)
    assert [] == [path for path in posted if not reached(path)]
    assert [] == [path for path in INSIDE if reached(path)]


def test_routes_lead_to_ports_of_services_through_listeners_that_take_them() -> None:
    """Each from a host of its own, which a GRPCRoute and an HTTPRoute may not share, and under TLS."""
    listeners = {one["name"]: one for one in find(MANIFESTS, "Gateway", "microtome")["spec"]["listeners"]}
    for kind, name, port in (("HTTPRoute", "gateway", "http"), ("GRPCRoute", "gateway-grpc", "grpc")):
        route = find(MANIFESTS, kind, name)["spec"]
        (parent,) = route["parentRefs"]
        listener = listeners.pop(parent["sectionName"])
        assert ("microtome", [listener["hostname"]]) == (parent["name"], route["hostnames"])
        assert ([kind], "Terminate") == (
            [allowed["kind"] for allowed in listener["allowedRoutes"]["kinds"]],
            listener["tls"]["mode"],
        )
        (backend,) = rule(kind, name)["backendRefs"]
        (target,) = [
            one["targetPort"]
            for one in find(MANIFESTS, "Service", backend["name"])["spec"]["ports"]
            if one["port"] == backend["port"]
        ]
        assert (port, True) == (target, port in {one["name"] for one in container(MANIFESTS, "gateway")["ports"]})
    assert {} == listeners
    seconds = [int(one.removesuffix("s")) for one in rule("HTTPRoute", "gateway")["timeouts"].values()]
    # The gateway's own deadline comes first, and says what was late.
    assert min(seconds) > 30


def test_documented_hosts_and_class_take_the_place_of_ours(tmp_path: Path) -> None:
    """What deploy/README.md says to patch leaves nothing of the example."""
    added = documented("gatewayClassName")
    theirs: tuple[Manifest, ...] = render_in(tmp_path, ("production", "gateway-api"), added)
    kinds = ("Gateway", "HTTPRoute", "GRPCRoute")
    assert "example.com" in str([one for one in MANIFESTS if one["kind"] in kinds])
    assert "example.com" not in str([one for one in theirs if one["kind"] in kinds])
    assert "eg" == find(theirs, "Gateway", "microtome")["spec"]["gatewayClassName"]
