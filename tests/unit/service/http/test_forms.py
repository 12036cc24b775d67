"""Forms: every image as it was sent, wherever the body was cut on its way, and what is no such form is told."""

from collections.abc import AsyncIterator

import pytest

from microtome.errors import BadRequest, ImageTooLarge, TooManyImages
from service.http.bodies import BodyLimits, read_form

BOUNDARY = "x7"
IMAGES = [b"\xff\xd8 one \r\n--x", b"", b"\r\n--x6--\r\n\x00\r\n"]
"""With beginnings of the boundary in them, and an empty one."""


LIMITS = BodyLimits(max_image_bytes=20, max_body_bytes=1_000, max_images=3)


def form(images: list[bytes], head: str = 'name="image"; filename="a.jpg"') -> bytes:
    """Write images as the file parts of a form."""
    disposition = f"Content-Disposition: form-data; {head}\r\n\r\n".encode()
    parts = [b"--x7\r\n" + disposition + image + b"\r\n" for image in images]
    return b"".join(parts) + b"--x7--\r\n"


async def read(body: bytes, size: int, content_type: str = f"multipart/form-data; boundary={BOUNDARY}") -> list[object]:
    """Read a body that comes in pieces of so many bytes."""

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(body), size):
            yield body[start : start + size]

    return list(await read_form(content_type, pieces(), LIMITS))


async def test_images_come_as_they_were_sent_wherever_the_body_is_cut() -> None:
    """Pieces of any size give the same bytes, those that look like the boundary's beginning too."""
    body = form(IMAGES)
    for size in range(1, len(body) + 1):
        assert IMAGES == await read(body, size), size


@pytest.mark.parametrize(
    "named",
    [
        'filename="café.jpg"'.encode("latin-1"),
        'filename="café.jpg"'.encode(),
        'filename="写真.jpg"'.encode("shift-jis"),
        "filename=café.jpg".encode("latin-1"),
        b"filename*=utf-8''caf%C3%A9.jpg",
        b"filename*=UTF-8''%FF%FE.jpg",
        b'filename*0="long"; filename*1="er.jpg"',
        b"filename*0*=utf-8''caf%C3; filename*1*=%A9.jpg",
        b'filename="a.jpg"; filename="b.jpg"',
        b"filename=\"a.jpg\"; filename*=utf-8''b.jpg",
        b'filename=""',
        b"filename=",
        b'filename="../../etc/passwd"',
        rb'filename="C:\photos\"',
        b"filename=/photos/a.jpg",
        rb'filename="say \"hi\".jpg"',
        b'filename="say "hi".jpg"',
        b'filename="open.jpg',
        b"filename='a b.jpg'",
        b'filename="a;b=c; name=x.jpg"',
        b'filename="%22%0D%0A.jpg"',
        b'filename="\x00\x01\x7f.jpg"',
        b'FileName = "a.jpg"',
        b'filename="' + b"long" * 10_000 + b'.jpg"',
        b'filename="' + "ü".encode() * 10_000 + b'.jpg"',
    ],
    ids=ascii,
)
async def test_a_files_name_never_refuses_it(named: bytes) -> None:
    """Nothing is done with it: any bytes, any spelling, any length up to 64 KiB, and other parts are read as ever."""
    head = b'--x7\r\nContent-Disposition: form-data; name="image"; '
    body = head + named + b"\r\n\r\n1\r\n" + head + named + b"\r\nContent-Type: image/jpeg\r\n\r\n2\r\n--x7--\r\n"
    assert [b"1", b"2"] == await read(body, len(body))


async def test_a_file_without_a_name_is_told_by_its_type_or_its_bytes() -> None:
    """`files={"image": (None, photo, "image/jpeg")}` of Python's has no name, those of generated clients neither."""
    assert [b"\xff\xd8 photo"] == await read(form([b"\xff\xd8 photo"], 'name="image"'), 7)
    body = b'--x7\r\nContent-Disposition: form-data; name="image"\r\nContent-Type: image/jpeg\r\n\r\n1\r\n--x7--\r\n'
    assert [b"1"] == await read(body, len(body))
    for kind in (b"text/plain; charset=utf-8", b""):
        with pytest.raises(BadRequest, match="Received the field 'image'"):
            await read(body.replace(b"image/jpeg", kind), len(body))


async def test_a_fields_name_may_look_like_a_files() -> None:
    """Within quotes it is none; the name is told as it was meant."""
    for name, told in (("filename", "filename"), ("x; filename=y", "x; filename=y"), ("größe", "größe")):
        with pytest.raises(BadRequest, match=f"Received the field '{told}'"):
            await read(form([b"1"], f'name="{name}"'), 1_000)


async def test_an_image_that_is_too_large_is_wrong_by_itself() -> None:
    """Its neighbours are read, and it says how large it is."""
    first, second, third = await read(form([b"1", b"2" * 21, b"3"]), 7)
    assert (b"1", b"3") == (first, third)
    assert isinstance(second, ImageTooLarge)
    assert "Expected at most 20 bytes an image, received 21." == str(second)


async def test_more_images_than_allowed_are_refused_before_they_are_read() -> None:
    """The fourth part's head is enough."""
    body = form([b"1", b"2", b"3", b"4"])
    with pytest.raises(TooManyImages, match="Expected at most 3 images"):
        await read(body[: body.index(b"4")], 16)


@pytest.mark.parametrize(
    ("body", "content_type", "said"),
    [
        (form([b"mean"], 'name="output"'), "multipart/form-data; boundary=x7", "Received the field 'output'"),
        (form([b"1"])[:-9], "multipart/form-data; boundary=x7", "Unexpected end of multipart stream"),
        (form([b"1"]), "multipart/form-data; boundary=other", "Unexpected end of multipart stream|Boundary not found"),
        (form([b"1"]), "multipart/form-data", "Empty boundary"),
        (form([b"1"]), "multipart/form-data; boundary=caf\xe9", "Unexpected end of multipart stream"),
        (b"--x7\r\nno colon\r\n\r\n1\r\n--x7--\r\n", "multipart/form-data; boundary=x7", "Malformed segment header"),
        (b"--x7--\r\n", "multipart/form-data; boundary=x7", "a form without any"),
    ],
    ids=["field", "cut off", "other boundary", "no boundary", "other bytes", "no header", "empty"],
)
async def test_what_is_no_form_of_images_is_told(body: bytes, content_type: str, said: str) -> None:
    """Each mistake ends in a sentence of what was expected and what came."""
    with pytest.raises(BadRequest, match=said):
        await read(body, 11, content_type)
