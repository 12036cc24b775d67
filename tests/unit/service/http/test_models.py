"""GET /models/{name}: one model, in its own words and in the model server's."""

from tests.unit.service.http.conftest import Gateway


async def test_a_model_tells_its_versions(gateway: Gateway) -> None:
    """Each with its state, the one in use marked; the list of models is as short as before."""
    answer = (await gateway.client.get("/models/toy")).json()
    assert [{"version": 1, "state": "available", "in_use": True}] == answer.pop("versions")
    assert [answer] == (await gateway.client.get("/models")).json()["models"]


async def test_an_unknown_model_has_no_versions(gateway: Gateway) -> None:
    """404, with the names that there are."""
    answer = await gateway.client.get("/models/nix")
    assert (404, "toy") == (answer.status_code, answer.json()["detail"].split("'")[3])
