"""The Python client against a real gateway: arrays of the right shape, errors with the right name, and patience."""

import asyncio
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import microtome
from microtome.client import errors
from microtome.client.images import ImageLike
from microtome.client.retries import Retry
from microtome.commands.embed.command import main as embed
from tests.e2e.conftest import Stack
from tests.e2e.photos import EXAMPLES, NAMES, example, unseen
from tests.e2e.processes import Gateway, ModelServer, Valkey, free_port
from tests.e2e.test_embedding import DIMENSIONS

PHOTOS = [EXAMPLES / f"{name}.jpg" for name in NAMES]


@pytest.fixture(scope="module")
def module_stack(directory: Path, models: Path) -> Iterator[Stack]:
    """The stack with a gateway that speaks gRPC too."""
    valkey, model_server = Valkey(directory), ModelServer(directory, models)
    gateway = Gateway(directory, model_server.address, redis_url=valkey.url, grpc_port=free_port())
    stack = Stack(valkey, model_server, gateway)
    try:
        yield stack
    finally:
        for process in reversed(stack.processes()):
            process.destroy()


@pytest.fixture(params=["http", "grpc"])
def url(stack: Stack, request: pytest.FixtureRequest) -> str:
    """Where the client is sent, over each transport."""
    port = stack.gateway.environment()["MICROTOME_GRPC_PORT"]
    return stack.gateway.url if request.param == "http" else f"grpc://127.0.0.1:{port}"


@pytest.fixture
def client(url: str) -> Iterator[microtome.Client]:
    """A client of the stack's gateway."""
    with microtome.Client(url) as client:
        yield client


def test_regions_are_images(client: microtome.Client, url: str) -> None:
    """One or several of each image, or images with their own; each is what embedding the cut picture gives."""
    boxes = [(0.0, 0.0, 0.5, 0.5), (0.25, 0.25, 0.5, 0.5), (0.5, 0.0, 0.5, 1.0)]
    pixels = np.asarray(Image.open(PHOTOS[0]))
    height, width = pixels.shape[:2]
    expected = client.embed(
        [
            pixels[
                int(y * height + 0.5) : int((y + h) * height + 0.5), int(x * width + 0.5) : int((x + w) * width + 0.5)
            ]
            for x, y, w, h in boxes
        ]
    )
    assert isinstance(expected, np.ndarray)
    # Sent as pixels, the whole is decoded exactly, as the cut pictures are.
    np.testing.assert_array_equal(client.embed(pixels, crop=boxes), expected)
    np.testing.assert_array_equal(client.embed(pixels, crop=boxes[1]), expected[1])
    mixed: list[ImageLike] = [microtome.Cropped(pixels, boxes[2]), PHOTOS[1], microtome.Cropped(pixels, boxes[0])]
    several = client.embed(mixed)
    np.testing.assert_array_equal(several, [expected[2], client.embed(PHOTOS[1]), expected[0]])
    whole, *rest = client.embed_many([PHOTOS[0], "missing.jpg"], crop=[(0, 0, 1, 1), boxes[0]])
    np.testing.assert_array_equal(whole.vector, client.embed(PHOTOS[0]))
    assert [outcome.error is None for outcome in rest] == [True, False, False]
    # More than the gateway takes in one request.
    many = client.embed(pixels, crop=[(n / 100, 0, 0.3, 1) for n in range(70)])
    assert isinstance(many, np.ndarray)
    assert many.shape == (70, 1280)
    with pytest.raises(ValueError, match="Expected a crop to be"):
        client.embed(pixels, crop=(0, 0, 640, 480))

    async def asynchronous() -> object:
        async with microtome.AsyncClient(url) as other:
            return await other.embed(pixels, crop=boxes)

    np.testing.assert_array_equal(asyncio.run(asynchronous()), expected)


def test_one_image_is_a_vector_and_a_list_a_matrix(client: microtome.Client) -> None:
    """However the image is given, the vector is that of its file or of its pixels."""
    vector, matrix = client.embed(PHOTOS[1]), client.embed(PHOTOS)
    assert ((1280,), "float32") == (vector.shape, str(vector.dtype))
    assert ((3, 1280), "float32") == (matrix.shape, str(matrix.dtype))
    np.testing.assert_array_equal(matrix[1], vector)
    np.testing.assert_array_equal(client.embed(str(PHOTOS[1])), vector)
    np.testing.assert_array_equal(client.embed(PHOTOS[1].read_bytes()), vector)
    with PHOTOS[1].open("rb") as file:
        np.testing.assert_array_equal(client.embed(file), vector)


def test_pixels_have_the_same_vector_from_an_array_and_from_pillow(client: microtome.Client) -> None:
    """Both travel as PNG, which loses nothing."""
    with Image.open(PHOTOS[0]) as image:
        pixels = np.asarray(image.convert("RGB"))
        np.testing.assert_array_equal(client.embed(pixels), client.embed(image.convert("RGB")))


def test_several_outputs_are_a_dict(client: microtome.Client) -> None:
    """In a list each has a row for each image."""
    found = client.embed(PHOTOS, output=["all"])
    assert {name: (3, dim) for name, dim in (DIMENSIONS | {"classes": 1000}).items()} == {
        name: m.shape for name, m in found.items()
    }
    np.testing.assert_array_equal(client.embed(PHOTOS[0], output="early"), found["early"][0])
    assert ["middle"] == list(client.embed(PHOTOS[0], output=("middle",)))


def computed_as_bulk(stack: Stack) -> int:
    """Return how many images the gateway has computed behind interactive ones."""
    with stack.gateway.client() as client:
        found = re.findall(r'queue_seconds_count{priority="bulk"} (\d+)', client.get("/metrics").text)
    return int(next(iter(found), 0))


def test_options_are_those_of_post_embed(stack: Stack, client: microtome.Client) -> None:
    """Cut, normalised, in fewer bits; and behind interactive requests if the caller has time."""
    before = computed_as_bulk(stack)
    client.embed(PHOTOS[0], priority="bulk", cache="bypass")
    client.classify(PHOTOS[0], priority="bulk", cache="bypass")
    assert before + 2 == computed_as_bulk(stack)
    raw = client.embed(PHOTOS[0])
    unit = client.embed(PHOTOS[0], normalize=True, dimensions=64, model="lite0", version=1)
    np.testing.assert_allclose(unit, raw[:64] / np.linalg.norm(raw[:64]), rtol=1e-5)
    np.testing.assert_array_equal(client.embed(PHOTOS[0], dtype="binary"), np.packbits(raw > 0))
    np.testing.assert_allclose(client.embed(PHOTOS[0], dtype="float16"), raw, rtol=2e-3, atol=1e-4)


def test_more_images_than_a_request_may_have_are_several_requests(client: microtome.Client) -> None:
    """In order, and of one version."""
    names = list(itertools.islice(itertools.cycle(range(3)), 100))
    matrix = client.embed([PHOTOS[name] for name in names])
    np.testing.assert_array_equal(matrix, client.embed(PHOTOS)[names])


def test_a_batch_that_is_too_large_for_the_server_is_sent_image_by_image(client: microtome.Client) -> None:
    """The server's limits need not be known here: 70 images are more than it takes at once."""
    outcomes = list(client.embed_many([PHOTOS[0]] * 70, batch=70))
    assert [None] * 70 == [outcome.error for outcome in outcomes]


def test_bad_images_are_objects_in_their_places(client: microtome.Client) -> None:
    """What is wrong with one harms no other, and each says which it was."""
    images: list[ImageLike] = [
        PHOTOS[0],
        b"certainly not an image",
        "nowhere.jpg",
        PHOTOS[1],
        example("cat")[:3000],
        b"",
    ]
    outcomes = list(client.embed_many(images))
    assert images == [outcome.image for outcome in outcomes]
    kinds = [outcome.error and outcome.error.kind for outcome in outcomes]
    assert [None, "not-an-image", "unreadable-image", None, "broken-image", "unreadable-image"] == kinds
    np.testing.assert_array_equal(outcomes[3].vector, client.embed(PHOTOS[1]))
    assert "Image" not in str(outcomes[1].error)[:6]
    with pytest.raises(errors.NotAnImage):
        _ = outcomes[1].vector


def test_nothing_but_bad_images_are_told_one_by_one_too(client: microtome.Client) -> None:
    """The server refuses such a request as a whole; the caller need not know."""
    kinds = [o.error and o.error.kind for o in client.embed_many([b"no image", b"neither"])]
    assert ["not-an-image"] * 2 == kinds


def test_embed_raises_the_first_error_and_says_whose_it_is(client: microtome.Client) -> None:
    """An array with holes would be a trap."""
    with pytest.raises(errors.NotAnImage) as caught:
        client.embed([PHOTOS[0], b"certainly not an image"])
    assert ["It was image 1 of 2."] == caught.value.__notes__


def test_what_is_wrong_with_the_call_is_raised(client: microtome.Client) -> None:
    """An unknown model would be unknown for every image."""
    with pytest.raises(errors.UnknownModel, match="lite9"):
        list(client.embed_many(itertools.repeat(PHOTOS[0]), model="lite9"))
    with pytest.raises(errors.UnknownOutput, match="topp"):
        client.embed(PHOTOS[0], output="topp")
    with pytest.raises(errors.UnknownVersion):
        client.embed(PHOTOS[0], version=77)
    with pytest.raises(errors.BadRequest, match="int8"):
        client.embed(PHOTOS[0], dtype="int8", normalize=True)


def test_an_endless_iterable_is_embedded_as_far_as_it_is_asked(client: microtome.Client) -> None:
    """Taking five of an endless stream takes five, and ends."""
    vectors = [outcome.vector for outcome in itertools.islice(client.embed_many(itertools.cycle(PHOTOS)), 5)]
    np.testing.assert_array_equal(vectors[3], vectors[0])


def test_the_command_goes_over_grpc_too(stack: Stack, tmp_path: Path) -> None:
    """`microtome embed --url grpc://...` writes what the client has; it is bulk unless told otherwise."""
    url, out = f"grpc://127.0.0.1:{stack.gateway.environment()['MICROTOME_GRPC_PORT']}", tmp_path / "vectors.npy"
    fresh = tmp_path / "fresh.jpg"
    fresh.write_bytes(unseen(PHOTOS[0].read_bytes()))
    before = computed_as_bulk(stack)
    assert 0 == embed(["embed", str(fresh), "--out", str(tmp_path / "bulk.npy"), "--url", url])
    assert before + 1 == computed_as_bulk(stack)
    assert 0 == embed(["embed", *map(str, PHOTOS), "--out", str(out), "--url", url, "--priority", "interactive"])
    with microtome.Client(stack.gateway.url) as client:
        np.testing.assert_array_equal(np.load(out), client.embed(PHOTOS))


def test_models_tell_what_is_served(client: microtome.Client) -> None:
    """The default output first."""
    (model,) = client.models()
    assert ("lite0", True, 1) == (model.name, model.ready, model.version)
    assert {"top": (1280,), "early": (40,), "middle": (112,), "classes": (1000,)} == dict(model.outputs)
    assert "top" == next(iter(model.outputs))


async def test_the_asynchronous_client_does_the_same(stack: Stack, url: str) -> None:
    """Many calls at a time over one pool."""
    with microtome.Client(url) as client:
        expected = client.embed(PHOTOS, output=["all"])
    async with microtome.AsyncClient(url) as many:
        one_by_one = await asyncio.gather(*(many.embed(photo, output=["all"]) for photo in PHOTOS))
        found = await many.embed(PHOTOS, output=["all"])
        outcomes = [outcome async for outcome in many.embed_many([*PHOTOS, b"no image"], batch=2)]
        assert ["lite0"] == [model.name for model in await many.models()]
    for name, matrix in expected.items():
        np.testing.assert_array_equal(found[name], matrix)
        np.testing.assert_array_equal(np.stack([vectors[name] for vectors in one_by_one]), matrix)
    assert [None, None, None, "not-an-image"] == [o.error and o.error.kind for o in outcomes]
    with pytest.raises(errors.UnknownModel):
        async with microtome.AsyncClient(url) as unlucky:
            await unlucky.embed(PHOTOS[0], model="lite9")


def test_a_gateway_that_is_gone_is_waited_for(stack: Stack, url: str) -> None:
    """The call outlives the gateway: it is tried again until someone answers."""
    told: list[Retry] = []

    def start_again(retry: Retry) -> None:
        told.append(retry)
        if not stack.gateway.running:
            stack.gateway.launch()

    with microtome.Client(url, attempts=None, on_retry=start_again) as client:
        client.embed(PHOTOS[0])
        stack.gateway.kill()
        assert (1280,) == client.embed(unseen(example("cat"))).shape
    assert isinstance(told[0].error, errors.TemporarilyUnable)


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_nobody_there_is_an_error_within_the_deadline(scheme: str) -> None:
    """It says where it looked."""
    address = f"127.0.0.1:{free_port()}"
    with (
        microtome.Client(f"{scheme}://{address}", attempts=2) as client,
        pytest.raises(errors.Unreachable, match=address),
    ):
        client.embed(PHOTOS[0])


@pytest.mark.parametrize("address", ["localhost:8000", "ftp://host", "http://"])
def test_an_address_that_is_none_is_refused_at_once(address: str) -> None:
    """The message shows a right one."""
    with pytest.raises(ValueError, match="http://host:8000 or grpc://host:8001"):
        microtome.Client(address)


def test_a_server_that_is_not_microtome_is_told_from_one_that_is(stack: Stack) -> None:
    """A wrong path is no vector."""
    with microtome.Client(f"{stack.gateway.url}/docs") as client, pytest.raises(errors.MicrotomeError):
        client.embed(PHOTOS[0])


def test_keys_are_sent(directory: Path, stack: Stack) -> None:
    """A gateway with keys serves who has one, and tells who has none."""
    digest = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"  # of "test"
    (directory / "keyed").mkdir(exist_ok=True)
    keyed = Gateway(directory / "keyed", stack.model_server.address, api_keys=f"tests sha256:{digest}")
    keyed.start()
    try:
        with microtome.Client(keyed.url, api_key="test") as client:
            assert (1280,) == client.embed(PHOTOS[0]).shape
        with microtome.Client(keyed.url) as client, pytest.raises(errors.Unauthenticated):
            client.embed(PHOTOS[0])
    finally:
        keyed.destroy()
