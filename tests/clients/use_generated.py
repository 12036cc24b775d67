"""Speak to a gateway through a client that openapi-python-client generated: use_generated.py URL KEY IMAGE...

`generated` is the client. mypy checks this file, strictly, beside it: what is asserted of types holds for its users.
"""

import json
import sys
from base64 import b64decode
from http import HTTPStatus
from io import BytesIO
from pathlib import Path
from typing import assert_type

from generated import AuthenticatedClient
from generated.api.embeddings import embed
from generated.api.models import describe_model, list_models
from generated.api.open_ai_jina_infinity_v_llm import openai_embeddings
from generated.models import (
    Base64Image,
    EmbedAnswer,
    EmbeddingAnswerCache,
    EmbedEncoding,
    EmbedFilesBody,
    EmbedImageRequest,
    EmbedImagesRequest,
    EmbedOnError,
    ModelsAnswer,
    OpenAIEmbeddingsAnswer,
    OpenAIEmbeddingsRequest,
    OpenAIImage,
    Problem,
)
from generated.types import File, Unset

url, key, *images = sys.argv[1:]
client = AuthenticatedClient(url, token=key)

answer = embed.sync(
    client=client,
    body=EmbedImagesRequest(images=[Base64Image(b64=image) for image in images], normalize=True),
)
assert isinstance(answer, EmbedAnswer), answer
vectors = [one.vector for one in answer.embeddings]
assert_type(vectors, list[list[float] | str])
assert_type(answer.embeddings[0].cache, EmbeddingAnswerCache)

form = embed.sync(
    client=client,
    body=EmbedFilesBody(
        image=[File(BytesIO(Path(__file__).read_bytes()), "é.txt"), File(BytesIO(b64decode(images[0])))]
    ),
    on_error=EmbedOnError.SKIP,
    encoding=EmbedEncoding.BASE64,
)
assert isinstance(form, EmbedAnswer), form
assert_type(form.errors[0].detail, str)

openai = openai_embeddings.sync(
    client=client, body=OpenAIEmbeddingsRequest(input_=[OpenAIImage(image=image) for image in images], model="lite0")
)
assert isinstance(openai, OpenAIEmbeddingsAnswer), openai
others = [one.embedding for one in openai.data]
assert_type(others, list[list[float] | str])
assert_type(openai.usage.total_tokens, int)

models = list_models.sync(client=client)
assert isinstance(models, ModelsAnswer), models
manifest = models.models[0].manifest
assert manifest is not None
assert not isinstance(manifest, Unset)
assert_type([output.shape for output in manifest.outputs], list[list[int]])

refused = embed.sync_detailed(client=client, body=EmbedImageRequest(image="no base64"))
assert isinstance(refused.parsed, Problem)
assert refused.status_code is HTTPStatus.BAD_REQUEST
unknown = describe_model.sync_detailed("other", client=client)
assert isinstance(unknown.parsed, Problem)

said = {"vectors": vectors, "others": others, "shapes": [o.shape for o in manifest.outputs], "default": models.default}
problems = {"title": refused.parsed.title, "unknown": unknown.parsed.title}
sys.stdout.write(json.dumps({**said, **problems, "form": [form.errors[0].title, form.embeddings[0].index]}))
