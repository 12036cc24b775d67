"""Whatever callers have for an image becomes the bytes of a file, with the same pixels."""

import io
import os
import re
import zipfile
from base64 import b64encode
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from microtome.client import grpc, http
from microtome.client.errors import MixedVersions, UnreadableImage
from microtome.client.images import Cropped, Text, encode, encode_all, is_one
from microtome.client.options import EmbedOptions, class_options
from microtome.client.results import ModelVersion, Outcome, stack
from microtome.v1.embedding_pb2 import ClassifyRequest
from tests.pictures import noise, png


def test_bytes_and_files_go_as_they_are(tmp_path: Path) -> None:
    """No re-encoding: the server's cache knows a file by its bytes."""
    photo = png()
    path = tmp_path / "photo.png"
    path.write_bytes(photo)
    for picture in (photo, bytearray(photo), memoryview(photo), path, str(path), path.read_bytes):
        assert photo == encode(picture)
        assert is_one(picture)


def test_open_files_are_read_to_their_end(tmp_path: Path) -> None:
    """Of every kind that reads bytes; they are one image, not a list of lines."""
    (tmp_path / "photo.png").write_bytes(png())
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.write(tmp_path / "photo.png", "photo.png")
    with (
        (tmp_path / "photo.png").open("rb") as buffered,
        (tmp_path / "photo.png").open("rb", buffering=0) as raw,
        zipfile.ZipFile(tmp_path / "photos.zip").open("photo.png") as member,
        os.scandir(tmp_path) as entries,
    ):
        (entry,) = (entry for entry in entries if entry.name == "photo.png")
        for picture in (buffered, raw, member, io.BytesIO(png()), entry):
            assert is_one(picture)
            assert png() == encode(picture)


def test_open_files_that_give_no_bytes_are_told_why(tmp_path: Path) -> None:
    """In text mode, closed, at their end, for writing only, or to be awaited."""
    path = tmp_path / "photo.png"
    path.write_bytes(png())

    class Awaited:
        async def read(self) -> bytes:
            return b""

    with path.open() as text, path.open("ab") as unreadable, path.open("rb") as at_end:
        at_end.read()
        closed = path.open("rb")
        closed.close()
        for picture, told in (
            (text, "open(path, 'rb'). Received one in text mode"),
            (io.StringIO("photo"), "Received one in text mode"),
            (closed, "closed file"),
            (at_end, "0 bytes. The file is at its end: call its seek(0) first"),
            (unreadable, "read"),
            (Awaited(), "Expected Awaited.read() to return an image's bytes. Received coroutine"),
            ((line for line in (b"1", b"2")), "Received generator"),
            (lambda: "photo.png", "to return an image's bytes. Received str"),
            (tmp_path, f"{tmp_path}: Is a directory"),
        ):
            with pytest.raises(UnreadableImage, match=re.escape(told)):
                encode(picture)  # type: ignore[arg-type]  # some are wrong on purpose


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3), (5, 7, 4)])
def test_pixels_arrive_exactly(shape: tuple[int, ...]) -> None:
    """PNG loses nothing."""
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    assert is_one(pixels)
    with Image.open(io.BytesIO(encode(pixels))) as image:
        np.testing.assert_array_equal(np.asarray(image), pixels)


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "RGBA", "LA", "CMYK", "YCbCr"])
def test_pillow_images_of_every_kind_are_sent(mode: str) -> None:
    """What PNG cannot hold becomes RGB first."""
    picture = noise().convert(mode)
    with Image.open(io.BytesIO(encode(picture))) as image:
        np.testing.assert_array_equal(np.asarray(image.convert("RGB")), np.asarray(picture.convert("RGB")))


@pytest.mark.parametrize(
    ("picture", "expected"),
    [
        (np.zeros((4, 4, 3), np.float32), "uint8 .* received float32"),
        (np.zeros((2, 4, 4, 3), np.uint8), r"list\(batch\)"),
        (np.zeros((3, 4, 5), np.uint8), r"received uint8 \[3, 4, 5\]"),
        (np.zeros((0, 4, 3), np.uint8), "empty array"),
        (b"", "0 bytes"),
        ("nowhere.jpg", "nowhere.jpg: No such file"),
        ("a\0b", "null byte"),
        (7, "Received int"),
        (lambda: Path("nowhere.jpg").read_bytes(), "^nowhere.jpg: No such file"),
    ],
    ids=lambda value: "" if isinstance(value, str) else type(value).__name__,
)
def test_what_is_no_image_is_said_before_anything_is_sent(picture: Any, expected: str) -> None:
    """The message says what was expected."""
    with pytest.raises(UnreadableImage, match=expected):
        encode(picture)


@pytest.mark.parametrize("thing", [7, None, object()])
def test_what_is_no_image_at_all_counts_as_one(thing: object) -> None:
    """So that its caller is told what an image is, not that it cannot be iterated over."""
    assert is_one(thing)
    several: list[object] = [[], (), iter(())]
    assert not any(map(is_one, several))


@pytest.mark.parametrize("text", ["a cat", "", "猫 🐈"])
def test_a_text_is_sent_as_it_is(text: str) -> None:
    """One item, beside an image; both transports say which is which, and a path is never taken for a text."""
    assert is_one(Text(text))
    bodies = encode_all([Text(text), png()])
    assert bodies == [Text(text), png()]
    sent = http.embed_request([Text(text), png()], EmbedOptions(model="clip"), 1.0)
    assert [{"text": text}, {"b64": b64encode(png()).decode()}] == sent["json"]["images"]
    alone = http.embed_request([Text(text)], EmbedOptions(), 1.0)
    assert {"images": [{"text": text}]} == alone["json"]
    message = grpc.embed_request([Text(text), png()], EmbedOptions())
    assert ["text", "data"] == [image.WhichOneof("source") for image in message.images]
    with pytest.raises(UnreadableImage):
        encode(Cropped(Text(text), (0, 0, 1, 1)))


def test_labels_in_words_are_sent_in_the_body() -> None:
    """An address has no room for a thousand of them."""
    options = class_options({"labels": ["a cat", "a dog"], "template": "one {}", "top_k": 1}, ())
    sent = http.embed_request([png()], options, 1.0)
    assert (["a cat", "a dog"], ["one {}"]) == (list(sent["json"]["labels"]), list(sent["json"]["template"]))
    assert 1 == sent["params"]["top_k"]
    assert {"labels", "template"}.isdisjoint(sent["params"])
    message = grpc.embed_request([png()], options)
    assert isinstance(message, ClassifyRequest)
    assert (["a cat", "a dog"], ["one {}"]) == (list(message.classes.labels), list(message.classes.templates))
    with pytest.raises(ValueError, match="a list of texts"):
        class_options({"labels": "a cat"}, ())


def test_vectors_of_two_spaces_are_never_stacked() -> None:
    """Towers of one space are, whatever their fingerprints."""
    image, text, other = (
        ModelVersion("clip", 1, f"sha256:{tower}", tower, space)
        for tower, space in (("image", "sha256:ab"), ("text", "sha256:ab"), ("text", "sha256:cd"))
    )
    vector = np.ones(2, np.float32)
    outcomes = [Outcome(None, {"projection": vector}, model=model) for model in (image, text, other)]
    stacked = stack(outcomes[:2], one=False, by_name=False)
    assert isinstance(stacked, np.ndarray)
    assert (2, 2) == stacked.shape
    with pytest.raises(MixedVersions, match="image version 1, text version 1"):
        stack([outcomes[0], outcomes[2]], one=False, by_name=False)
