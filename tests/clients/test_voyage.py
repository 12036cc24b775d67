"""voyageai.Client, sync and async."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import voyageai
from numpy.typing import NDArray
from PIL import Image

from tests.clients.conftest import KEY
from tests.e2e.processes import Gateway


@pytest.fixture
def client(gateway: Gateway) -> voyageai.Client:
    """Voyage's own client."""
    return voyageai.Client(api_key=KEY, base_url=f"{gateway.url}/v1")


def test_voyage_embeds_pictures(
    client: voyageai.Client,
    photos: list[Path],
    unit_vectors: NDArray[np.float32],
    tried: Callable[[str], None],
) -> None:
    """Pictures of Pillow, which it sends as WebP without loss; it counts their pixels."""
    tried("voyageai")
    pictures = [Image.open(photo) for photo in photos]
    answer = client.multimodal_embed([[picture] for picture in pictures], model="lite0")
    found = np.array(answer.embeddings)
    # Not 1: a JPEG is decoded at a reduced scale, and a WebP is not.
    assert np.min(np.sum(found * unit_vectors, axis=-1)) > 0.99
    assert sum(picture.width * picture.height for picture in pictures) == answer.image_pixels
    assert 3 == answer.total_tokens


def test_voyage_embeds_data_uris_as_bits(
    client: voyageai.Client, uris: list[str], unit_vectors: NDArray[np.float32]
) -> None:
    """As floats, and as bits signed and unsigned."""
    inputs = [{"content": [{"type": "image_base64", "image_base64": uri}]} for uri in uris]
    floats = client.multimodal_embed(inputs, model="lite0").embeddings
    np.testing.assert_allclose(floats, unit_vectors, rtol=1e-6)
    packed = np.packbits(unit_vectors > 0, axis=-1)
    for kind, expected in (("ubinary", packed), ("binary", packed.astype(int) - 128)):
        bits = client.multimodal_embed(inputs, model="lite0", output_dtype=kind).embeddings
        np.testing.assert_array_equal(bits, expected)


async def test_voyage_embeds_asynchronously(
    gateway: Gateway, uris: list[str], vectors: Callable[..., NDArray[np.float32]]
) -> None:
    """Another layer, cut to some dimensions."""
    client = voyageai.AsyncClient(api_key=KEY, base_url=f"{gateway.url}/v1")
    inputs = [{"content": [{"type": "image_base64", "image_base64": uri}]} for uri in uris]
    answer = await client.multimodal_embed(inputs, model="lite0/middle", output_dimension=16)
    expected = vectors(normalize=True, output="middle", dimensions=16)
    np.testing.assert_allclose(answer.embeddings, expected, rtol=1e-6)


def test_voyage_raises_what_is_wrong(client: voyageai.Client, gateway: Gateway, uris: list[str]) -> None:
    """Its exceptions are those of the status, and its message is ours."""
    with pytest.raises(voyageai.error.InvalidRequestError, match="embeds images only"):
        client.multimodal_embed([["a cat"]], model="lite0")
    with pytest.raises(voyageai.error.AuthenticationError, match="not known here"):
        voyageai.Client(api_key="wrong", base_url=f"{gateway.url}/v1").multimodal_embed(
            [{"content": [{"type": "image_base64", "image_base64": uris[0]}]}], model="lite0"
        )
