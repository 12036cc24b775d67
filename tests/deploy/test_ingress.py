"""What is reached from outside: every way to embed, and nothing of the operators'."""

from concurrent.futures import ThreadPoolExecutor

from tests.deploy.manifests import find, render
from tests.unit.service.http.conftest import gateway_with

INSIDE = {"/", "/livez", "/readyz", "/health", "/healthz", "/metrics"}
"""Operations, and Weaviate's and KServe's own words for them; documentation is read inside as well."""


def outside() -> list[str]:
    """The prefixes that the Ingress leads to the gateway."""
    (rule,) = find(render(("production", "ingress")), "Ingress", "gateway")["spec"]["rules"]
    paths = rule["http"]["paths"]
    assert {"Prefix"} == {path["pathType"] for path in paths}
    return [path["path"] for path in paths]


def reached(path: str) -> bool:
    """Whether a path lies under a prefix, element by element as Kubernetes compares them."""
    return any(f"{path}/".startswith(f"{prefix}/") for prefix in outside())


async def test_every_way_to_embed_is_reached_from_outside() -> None:
    """Those of other systems' clients too: a route that is added has a path in the Ingress."""
    with ThreadPoolExecutor(1) as decoders:
        async with gateway_with(decoders, dialects="all") as gateway:
            paths = (await gateway.client.get("/openapi.json")).json()["paths"]
    posted = [path for path, ways in paths.items() if "post" in ways]
    assert {"/embed", "/v1/embeddings", "/v2/embed"} <= set(posted)
    assert [] == [path for path in posted if not reached(path)]
    assert [] == [path for path in INSIDE if reached(path)]
