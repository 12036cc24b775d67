"""huggingface_hub's InferenceClient, unmodified: image classification by a gateway's address."""

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError

from tests.clients.conftest import KEY
from tests.e2e.processes import Gateway

Labels = Callable[..., list[list[dict[str, Any]]]]


@pytest.fixture
def client(gateway: Gateway, record_property: Callable[[str, object], None]) -> InferenceClient:
    """A client as the documentation of Hugging Face makes it, with the model's address."""
    record_property("client", f"huggingface_hub {version('huggingface_hub')}")
    return InferenceClient(model=f"{gateway.url}/models/lite0", token=KEY)


def test_labels_are_those_of_our_own_route(client: InferenceClient, photos: list[Path], labels: Labels) -> None:
    """A path, bytes, and parameters, which make it send JSON."""
    (expected, *_), photo = labels(top_k=5), photos[0]
    for found in (
        client.image_classification(photo.read_bytes()),
        client.image_classification(str(photo)),
        client.image_classification(photo.read_bytes(), top_k=5, function_to_apply="softmax"),
    ):
        assert [one["label"] for one in expected] == [one.label for one in found]
        assert [one["score"] for one in expected] == pytest.approx([one.score for one in found], abs=1e-6)


def test_errors_say_what_is_wrong(gateway: Gateway, photos: list[Path]) -> None:
    """An unknown model is the client's own error, with the status and our words."""
    client = InferenceClient(model=f"{gateway.url}/models/nix", token=KEY)
    with pytest.raises(HfHubHTTPError, match="nix") as caught:
        client.image_classification(photos[0].read_bytes())
    assert 404 == caught.value.response.status_code
