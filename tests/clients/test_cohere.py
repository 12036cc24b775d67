"""cohere.ClientV2, sync and async."""

from base64 import b64decode
from collections.abc import Callable

import cohere
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.clients.conftest import KEY
from tests.e2e.processes import Gateway


@pytest.fixture
def client(gateway: Gateway) -> cohere.ClientV2:
    """Cohere's own client."""
    return cohere.ClientV2(api_key=KEY, base_url=gateway.url)


def test_cohere_embeds_in_several_types_at_once(
    client: cohere.ClientV2, uris: list[str], unit_vectors: NDArray[np.float32], tried: Callable[[str], None]
) -> None:
    """Floats, bits signed and unsigned, base64: all of the same vectors; and what it is told of images and bills."""
    tried("cohere")
    answer = client.embed(
        model="lite0",
        input_type="image",
        images=uris,
        embedding_types=["float", "binary", "ubinary", "base64"],
    )
    found = answer.embeddings
    np.testing.assert_allclose(found.float_, unit_vectors, rtol=1e-6)
    assert found.base64 is not None
    letters = [np.frombuffer(b64decode(text), "<f4") for text in found.base64]
    np.testing.assert_array_equal(letters, np.array(found.float_, np.float32))
    packed = np.packbits(unit_vectors > 0, axis=-1)
    np.testing.assert_array_equal(found.ubinary, packed)
    np.testing.assert_array_equal(found.binary, packed.astype(int) - 128)
    assert answer.images is not None
    assert ["jpeg"] * 3 == [image.format for image in answer.images]
    assert answer.meta is not None
    assert answer.meta.billed_units is not None
    assert 3 == answer.meta.billed_units.images


async def test_cohere_embeds_inputs_asynchronously(
    gateway: Gateway, uris: list[str], vectors: Callable[..., NDArray[np.float32]]
) -> None:
    """Inputs whose content is an image, cut to some dimensions, of another layer."""
    async with cohere.AsyncClientV2(api_key=KEY, base_url=gateway.url) as client:
        answer = await client.embed(
            model="lite0/middle",
            input_type="image",
            inputs=[{"content": [{"type": "image_url", "image_url": {"url": uri}}]} for uri in uris],
            embedding_types=["float"],
            output_dimension=16,
        )
    expected = vectors(normalize=True, output="middle", dimensions=16)
    np.testing.assert_allclose(answer.embeddings.float_, expected, rtol=1e-6)


def test_cohere_raises_what_is_wrong(client: cohere.ClientV2, gateway: Gateway, uris: list[str]) -> None:
    """Its exceptions are those of the status, and its message is ours."""
    with pytest.raises(cohere.BadRequestError, match="embeds images only"):
        client.embed(model="lite0", input_type="search_query", texts=["a cat"], embedding_types=["float"])
    with pytest.raises(cohere.NotFoundError, match="Unknown model 'lite9'"):
        client.embed(model="lite9", input_type="image", images=uris)
    with pytest.raises(cohere.UnauthorizedError, match="not known here"):
        cohere.ClientV2(api_key="wrong", base_url=gateway.url).embed(model="lite0", input_type="image", images=uris)
