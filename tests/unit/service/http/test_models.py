"""GET /models/{name}: one model, in its own words and in the model server's."""

from dataclasses import replace

from microtome.manifest import Label, ModelCard
from tests.fakes.model_server import card
from tests.pictures import solid
from tests.unit.service.http.conftest import Gateway


async def test_a_model_tells_its_versions(gateway: Gateway) -> None:
    """Each with its state, the one in use marked; the list of models is as short as before."""
    answer = (await gateway.client.get("/models/toy")).json()
    assert [{"version": 1, "state": "available", "in_use": True}] == answer.pop("versions")
    assert ["a fake: toy is simple"] == answer["engines"]
    assert [answer] == (await gateway.client.get("/models")).json()["models"]


async def test_an_unknown_model_has_no_versions(gateway: Gateway) -> None:
    """404, with the names that there are."""
    answer = await gateway.client.get("/models/nix")
    assert (404, "toy") == (answer.status_code, answer.json()["detail"].split("'")[3])


async def test_numbers_are_named_with_their_units(gateway: Gateway) -> None:
    """/embed answers them as the output's vector; they are no classes, although they have labels."""
    plain = card()
    numbers = [
        replace(one, kind="numbers", labels=(Label("a"), Label("b"), Label("c")), units=("cm", "", "kg"))
        if one.name == "mean"
        else one
        for one in plain.manifest.outputs
    ]
    gateway.server.current = ModelCard("toy", 1, replace(plain.manifest, outputs=tuple(numbers)))
    red = solid((200, 10, 10))
    (embedding,) = (await gateway.client.post("/embed?output=mean", content=red)).json()["embeddings"]
    assert [200.0, 10.0, 10.0] == embedding["vector"]
    (said,) = (await gateway.client.get("/models")).json()["models"]
    (output,) = [one for one in said["outputs"] if one["name"] == "mean"]
    assert {"name": "mean", "kind": "numbers", "shape": [3], "labels": None, "names": ["a", "b", "c"],
            "units": ["cm", "", "kg"]} == output  # fmt: skip
    refused = await gateway.client.post("/classify?output=mean", content=red)
    assert (404, True) == (refused.status_code, "an output of classes" in refused.json()["detail"])
