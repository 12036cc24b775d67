"""Whatever JSON comes, a dialect reads it or refuses it, and never breaks."""

import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microtome.errors import RequestRejected
from service.core.remote_images import Url
from service.http.bodies import BodyLimits
from service.http.compat import cohere, openai, voyage
from service.http.compat.handler import CompatRequest
from tests.unit.service.http.test_parameters import JSON

KEYS = st.sampled_from(
    ["type", "text", "image", "url", "bytes", "content", "image_url", "image_base64", "video_url", "float", "base64"]
)
NEARLY = st.recursive(
    JSON | KEYS | st.just("data:image/png;base64,AAAA"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)
"""JSON in which the contracts' own words stand at any place."""

FIELDS = st.sampled_from(
    [
        *("input", "messages", "inputs", "images", "texts", "model", "output", "version", "normalize"),
        *("dimensions", "output_dimension", "embedding_type", "embedding_types", "encoding_format", "output_dtype"),
    ]
)


@pytest.mark.parametrize("read", [openai.read, cohere.read, voyage.read], ids=["openai", "cohere", "voyage"])
@given(fields=st.dictionaries(FIELDS, NEARLY, max_size=3))
def test_any_json_is_read_or_refused(read: Callable[..., CompatRequest], fields: dict[str, object]) -> None:
    """The result is a question whose images are images, or an error that the caller is told."""
    try:
        question = read(json.dumps(fields).encode(), default_model="toy", limits=BodyLimits(100, 1000, 8))
    except RequestRejected:
        return
    assert question.images
    assert all(isinstance(image, bytes | Url | RequestRejected) for image in question.images)


@pytest.mark.parametrize("read", [openai.read, cohere.read, voyage.read], ids=["openai", "cohere", "voyage"])
@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff\xd8\xff", b'"text"', b"null"])
def test_what_is_no_object_is_refused(read: Callable[..., CompatRequest], body: bytes) -> None:
    """With words that say what was expected."""
    with pytest.raises(RequestRejected, match="Expected a JSON object"):
        read(body, default_model="toy", limits=BodyLimits(100, 1000, 8))
