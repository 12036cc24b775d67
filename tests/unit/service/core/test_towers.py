"""Texts beside images: each item goes to its tower, with the same cache and budgets, and no answer mixes spaces."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from hashlib import sha256

import numpy as np
import pytest

from microtome.errors import (
    BadRequest,
    ModelNotReady,
    NoImageEmbedded,
    NotAnImage,
    Overloaded,
    ServiceError,
    UnknownOutput,
    UnsupportedModality,
)
from microtome.manifest import ModelCard
from service.cache.memory import MemoryCache
from service.core.intake import Intake
from service.core.ports import Towers
from service.core.remote_images import MAX_TEXT, Image, Text
from service.core.requests import Embedded, EmbedRequest
from service.core.timings import Timings, unobserved
from service.http.bodies import BodyLimits
from service.telemetry.metrics import Metrics
from tests.fakes.intake import intake_over
from tests.fakes.model_server import FakeModelServer, towers
from tests.pictures import png

REQUEST = EmbedRequest("pair")
CAT = [99.0, 97.0, 116.0]
"""The first three characters."""


class Bench:
    """The way in over a fake model server with both towers."""

    def __init__(self, decoders: ThreadPoolExecutor, *, images_in_flight: int = 8) -> None:
        first = towers()
        self.server = FakeModelServer(first.of("Image"), first.text)
        self.cache = MemoryCache(1 << 20)
        self.intake: Intake = intake_over(
            self.server,
            decoders,
            Metrics(),
            bodies=BodyLimits(1 << 20, 1 << 20, 8),
            cache=self.cache,
            images_in_flight=images_in_flight,
        )

    async def embed(self, *items: Image, request: EmbedRequest = REQUEST) -> Embedded:
        """Embed items as a transport does."""
        return await self.intake.embed(request, items, Timings(unobserved))


@pytest.fixture
def bench() -> Iterator[Bench]:
    """A family of two towers."""
    with ThreadPoolExecutor(2) as decoders:
        yield Bench(decoders)


async def test_each_item_goes_to_its_tower(bench: Bench) -> None:
    """Vectors are in the order of the request, and the answer tells both versions, of one space."""
    answer = await bench.embed(Text("cat"), png(), Text("dog"))
    assert ["toy", "words"] == [card.name for card in answer.cards]
    assert ["words", "toy", "words"] == [answer.card_of(e).name for e in answer.embeddings]
    assert [0, 1, 2] == [e.index for e in answer.embeddings]
    assert CAT == answer.embeddings[0].vector.tolist()
    assert 1 == len({card.manifest.space for card in answer.cards})


async def test_texts_alone_need_no_thread(bench: Bench) -> None:
    """The answer is the text tower's, and no decoding thread has been started."""
    with ThreadPoolExecutor(1) as decoders:
        answer = await Bench(decoders).embed(Text("cat"))
        assert not decoders._threads
    assert ("words", None) == (answer.card.name, answer.text)


async def test_a_text_is_found_by_its_ids(bench: Bench) -> None:
    """The key is fingerprint, ids and output: what has equal ids is one text, and a vector there is not computed."""
    words = towers().of("Text")
    digest = sha256(np.array([99, 97, 116, 0, 0], "<i4").tobytes()).hexdigest()
    key = f"mt1:{words.manifest.fingerprint.removeprefix('sha256:')}:{digest}:mean"
    await bench.cache.put_many({key: np.arange(3, dtype="<f4").tobytes()})
    answer = await bench.embed(Text("cat"), Text("cat\0"), Text("letters"), Text("letters too"))
    assert ["hit", "hit", "miss", "miss"] == [e.cache for e in answer.embeddings]
    assert [(1, ("mean",), 1)] == bench.server.calls


async def test_known_words_are_answered_under_any_load(bench: Bench) -> None:
    """A text in the cache takes no place; one that is not waits for one, and is refused."""
    with ThreadPoolExecutor(1) as decoders:
        full = Bench(decoders, images_in_flight=1)
        await full.embed(Text("cat"))
        full.server.gate.clear()
        waiting = asyncio.create_task(full.embed(Text("dog")))
        await full.server.called(2)
        assert "hit" == (await full.embed(Text("cat"))).embeddings[0].cache
        with pytest.raises(Overloaded):
            await full.embed(Text("cow"))
        joined = asyncio.create_task(full.embed(Text("cat"), request=replace(REQUEST, cache="use")))
        assert "hit" == (await joined).embeddings[0].cache
        full.server.gate.set()
        assert "miss" == (await waiting).embeddings[0].cache


async def test_equal_texts_at_the_same_time_are_computed_once(bench: Bench) -> None:
    """As images are: the second request joins the first one's flight."""
    bench.server.gate.clear()
    both = [asyncio.create_task(bench.embed(Text("cat"))) for _ in range(2)]
    await bench.server.called(1)
    bench.server.gate.set()
    assert {"miss", "coalesced"} == {(await one).embeddings[0].cache for one in both}
    assert 1 == len(bench.server.calls)


@pytest.mark.parametrize(
    ("model", "items", "kind", "message"),
    [
        ("toy", [png(), Text("cat")], UnsupportedModality, "Text 1: Expected an image for model 'toy'.*'pair'"),
        ("words", [Text("cat"), png()], UnsupportedModality, "Image 1: Expected a text for model 'words'.*'pair'"),
        ("words", [png()], UnsupportedModality, "Image 0: Expected a text"),
        ("pair", [png(), b"none", Text("cat")], NotAnImage, "Image 1: "),
        ("pair", [png(), Text("a" * (MAX_TEXT + 1))], BadRequest, f"Text 1: Expected a text of at most {MAX_TEXT} "),
        ("pair", [Text("\ud800")], BadRequest, "Text 0: Expected a text in Unicode"),
    ],
)
async def test_what_is_wrong_with_an_item_is_its_own(
    bench: Bench, model: str, items: list[Image], kind: type[ServiceError], message: str
) -> None:
    """It is named by its place, and fails the request; skipped, it leaves the others their vectors."""
    request = EmbedRequest(model)
    with pytest.raises(kind, match=message):
        await bench.embed(*items, request=request)
    request = replace(request, on_error="skip")
    if len(items) == 1:
        with pytest.raises(NoImageEmbedded) as caught:
            await bench.embed(*items, request=request)
        assert [kind] == list(map(type, caught.value.failures.values()))
        return
    answer = await bench.embed(*items, request=request)
    (error,) = answer.errors
    assert kind is type(error.error)
    assert f"{'Text' if isinstance(items[error.index], Text) else 'Image'} {error.index}: " in str(error.error)
    assert set(range(len(items))) - {error.index} == {e.index for e in answer.embeddings}


async def test_a_text_keeps_its_place_beside_items_that_never_arrived(bench: Bench) -> None:
    """What a transport has refused is counted too."""
    request = replace(REQUEST, on_error="skip")
    answer = await bench.embed(BadRequest("no base64"), Text("cat"), png(), b"none", request=request)
    assert [(1, "words"), (2, "toy")] == [(e.index, answer.card_of(e).name) for e in answer.embeddings]
    assert ["Image 0: no base64", "Image 3"] == [str(e.error)[:18].partition(": Exp")[0] for e in answer.errors]


async def test_a_version_goes_with_the_name_of_a_model(bench: Bench) -> None:
    """Towers are numbered on their own, so a family has no versions; a text tower by its own name has."""
    with pytest.raises(BadRequest, match="`version`"):
        await bench.embed(Text("cat"), request=replace(REQUEST, version=1))
    answer = await bench.embed(Text("cat"), request=EmbedRequest("words", version=1))
    assert CAT == answer.embeddings[0].vector.tolist()


async def test_both_towers_are_replaced_together(bench: Bench) -> None:
    """Versions that end under a request are followed by the next pair, whole, also where one tower's was cached."""
    outputs = replace(REQUEST, outputs=("corner",))
    await bench.embed(Text("cat"), request=outputs)
    after = towers(2)
    bench.server.next, bench.server.next_words = after.image, after.text
    answer = await bench.embed(Text("cat"), png(), request=outputs)
    assert [2, 2] == [e.vector[-1] for e in answer.embeddings]
    assert {after.of("Image").manifest.space} == {card.manifest.space for card in answer.cards}


async def test_a_pair_of_two_spaces_cannot_be_made(bench: Bench) -> None:
    """The type refuses it; and a request that finds no pair gets none of the vectors."""
    with pytest.raises(ValueError, match="one space"):
        Towers(towers(1).image, towers(2).text)
    bench.server.failure = ModelNotReady("no pair")
    with pytest.raises(ModelNotReady, match="no pair"):
        await bench.embed(Text("cow"), png())


async def test_outputs_are_each_towers_own(bench: Bench) -> None:
    """One that a tower does not have is unknown, before any work."""
    words = towers().of("Text")
    short = replace(words.manifest, outputs=words.manifest.outputs[:1])
    bench.server.words = ModelCard("words", 1, short, words.tokenizer)
    with pytest.raises(UnknownOutput, match="'words'"):
        await bench.embed(Text("cat"), png(), request=replace(REQUEST, outputs=("corner",)))
    assert not bench.server.calls


async def test_a_private_text_is_its_owners(bench: Bench) -> None:
    """A tenant's vectors are found by that tenant only."""
    await bench.embed(Text("cat"))
    mine = replace(REQUEST, tenant="me")
    assert ["miss", "hit"] == [(await bench.embed(Text("cat"), request=mine)).embeddings[0].cache for _ in range(2)]
