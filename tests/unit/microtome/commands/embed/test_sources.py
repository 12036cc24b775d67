"""Listing images: in the order of their names, as far as asked, and what is no list says so."""

import bz2
import gzip
import io
import lzma
import os
import socket
import tarfile
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from microtome.client.errors import UnreadableImage
from microtome.client.images import encode_all
from microtome.commands.embed import archives, sources
from microtome.commands.embed.errors import EmbedError
from microtome.commands.embed.keyed_images import ImageFile, KeyedText, Rules
from microtome.errors import MicrotomeError


def keys(*words: object, stdin: str = "") -> list[str]:
    """The keys of what is listed."""
    return [image.key for image in sources.images(map(str, words), io.StringIO(stdin))]


def listed(word: object, rules: Rules = Rules()) -> list[Any]:  # noqa: B008
    """What is listed."""
    return list(sources.images([str(word)], io.StringIO(), rules))


def read(word: object, rules: Rules = Rules()) -> dict[str, bytes | str]:  # noqa: B008
    """The bytes of each image by the end of its key, or why there are none."""
    found: dict[str, bytes | str] = {}
    for image in listed(word, rules):
        try:
            found[image.key.rpartition("/")[2].rpartition("::")[2]] = image()
        except UnreadableImage as error:
            found[image.key.rpartition("/")[2].rpartition("::")[2]] = str(error)
    return found


@contextmanager
def at_most(mebibytes: int) -> Iterator[None]:
    """Fail when Python takes more memory within the block."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < mebibytes << 20
    finally:
        tracemalloc.stop()


def member(name: str, size: int, body: bytes = b"", kind: bytes = tarfile.REGTYPE) -> bytes:
    """A tar's member, whose size need not be that of its body."""
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT) + body + bytes(-len(body) % 512)


END = bytes(1024)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with images in it and below it, and other files."""
    for name in ("b/2.JPG", "b/1.png", "a.webp", "notes.md", "b/._1.png", "[c].jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "loop").symlink_to(tmp_path)
    return tmp_path


def test_a_folder_is_listed_by_names(folder: Path) -> None:
    """Endings tell images, in whatever letters; links to folders are not followed into circles."""
    expected = [f"{folder}/{name}" for name in ("[c].jpg", "a.webp", "b/1.png", "b/2.JPG")]
    assert expected == keys(folder)
    assert 4 == sources.count([str(folder)])


def test_a_file_that_is_named_is_taken_whatever_its_name(folder: Path) -> None:
    """Brackets in a name are no pattern when there is such a file."""
    assert [f"{folder}/notes.md", f"{folder}/[c].jpg"] == keys(folder / "notes.md", folder / "[c].jpg")


def test_patterns_match_below_folders(folder: Path) -> None:
    """As in a shell, sorted."""
    assert [f"{folder}/b/1.png", f"{folder}/b/2.JPG"] == keys(f"{folder}/b/[0-9].*")
    assert [f"{folder}/a.webp"] == keys(f"{folder}/?.*")


def test_a_list_from_standard_input_is_read_as_it_comes() -> None:
    """Paths are not looked at before their turn; how many will come is not known."""
    assert ["x y.jpg", "z.jpg"] == keys("-", stdin="x y.jpg\r\n\nz.jpg")
    assert sources.count(["-"]) is None


def test_a_tars_images_are_read_where_they_lie(tmp_path: Path) -> None:
    """An image in a tar is a place in a file, so it need not be held."""
    path = tmp_path / "shard.tar"
    with tarfile.open(path, "w") as tar:
        for number in range(300):
            for name, body in ((f"{number:04}.jpg", b"image %d" % number), (f"{number:04}.json", b"{}")):
                member = tarfile.TarInfo(name)
                member.size = len(body)
                tar.addfile(member, io.BytesIO(body))
    found = list(sources.images([str(path)], io.StringIO()))
    assert 300 == len(found)
    assert isinstance(found[7], ImageFile)
    assert (f"{path}::0007.jpg", b"image 7") == (found[7].key, found[7]())


@pytest.mark.parametrize("name", ["torn.tar", "torn.tar.gz"])
def test_a_tar_that_is_none_is_an_error(tmp_path: Path, name: str) -> None:
    """The message names it."""
    (tmp_path / name).write_bytes(b"\x1f\x8bnothing" * 200)
    with pytest.raises(EmbedError, match=name):
        keys(tmp_path / name)


def test_nothing_there_is_an_error(tmp_path: Path) -> None:
    """A misspelt folder must not end as a success with no vectors."""
    with pytest.raises(EmbedError, match="nothing there"):
        keys(tmp_path / "photso")


def test_a_column_of_many_parquet_files_is_listed(tmp_path: Path) -> None:
    """All that match, each row under its file's name; counted as it is listed."""
    for name in ("b", "a"):
        parquet.write_table(pyarrow.table({"image": [name.encode(), b"2"]}), tmp_path / f"{name}.parquet")
    word = f"{tmp_path}/*.parquet::image"
    assert [f"{tmp_path}/{name}.parquet::{row}" for name in "ab" for row in (0, 1)] == keys(word)
    assert 4 == sources.count([word])
    with pytest.raises(EmbedError, match="nothing there"):
        keys(f"{tmp_path}/*.pq::image")


def test_a_parquet_file_without_a_column_is_no_image(tmp_path: Path) -> None:
    """It must not end as one bad image; also where it is found by a pattern."""
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    for word in ("t.parquet", "*.parquet"):
        with pytest.raises(EmbedError, match="Say which column"):
            keys(tmp_path / word)


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    """A pipe would wait for its writer for ever, a device has no end; each is listed with what it is."""
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    (tmp_path / "folder.jpg").symlink_to(tmp_path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket.jpg"))
    expected = {"pipe.jpg": "a pipe", "zero.jpg": "a device", "folder.jpg": "a folder", "socket.jpg": "a socket"}
    for kind in (
        read(tmp_path, Rules(follow_links=True)),
        *(read(tmp_path / name) for name in expected if name != "folder.jpg"),
    ):
        for name, told in kind.items():
            assert str(told).endswith(f"{name}: expected a regular file, received {expected[name]}.")
    for name in ("pipe.tar", "pipe.parquet"):
        os.mkfifo(tmp_path / name)
    with pytest.raises(EmbedError, match=r"pipe\.tar cannot be read as a tar: .*received a pipe"):
        listed(tmp_path / "pipe.tar")
    with pytest.raises(EmbedError, match="there is no file"):
        listed(f"{tmp_path}/pipe.parquet::image")


def test_links_that_leave_a_folder_are_refused_unless_asked_for(tmp_path: Path) -> None:
    """In a folder and in a pattern; links within it are read, and so is a link that is named itself."""
    inside, outside = tmp_path / "photos", tmp_path / "photos2"
    for path in (inside / "1.jpg", inside / "below" / "2.jpg", outside / "3.jpg"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(path.name.encode())
    (inside / "out.jpg").symlink_to(outside / "3.jpg")
    (inside / "in.jpg").symlink_to("below/2.jpg")
    (inside / "gone.jpg").symlink_to("nowhere")
    (inside / "away").symlink_to(outside)
    (inside / "away.tar").symlink_to(outside / "3.jpg")
    (inside / "gone.jpg").unlink()
    refused = f"out.jpg is a link out of {inside}. --follow-links reads it."
    found = read(inside)
    assert {"1.jpg": b"1.jpg", "2.jpg": b"2.jpg", "in.jpg": b"2.jpg"} == {
        k: v for k, v in found.items() if k != "out.jpg"
    }
    assert str(found["out.jpg"]).endswith(refused)
    assert str(read(f"{inside}/*.jpg")["out.jpg"]).endswith(refused)
    assert "link out of" in str(read(f"{inside}/*/3.jpg")["3.jpg"])
    for word in (f"{inside}/aw*y", f"{inside}/*.tar"):
        with pytest.raises(EmbedError, match=r"is a link out of .*--follow-links"):
            listed(word)
    assert b"3.jpg" == read(inside, Rules(follow_links=True))["out.jpg"]
    assert b"3.jpg" == read(f"{inside}/*/3.jpg", Rules(follow_links=True))["3.jpg"]
    assert {"out.jpg": b"3.jpg"} == read(inside / "out.jpg")
    (tmp_path / "link").symlink_to(inside)
    assert b"1.jpg" == read(tmp_path / "link")["1.jpg"]


def test_a_file_that_becomes_a_link_after_it_was_listed_is_refused(tmp_path: Path) -> None:
    """What is looked at is what is read."""
    (tmp_path / "photos").mkdir()
    photo = tmp_path / "photos" / "1.jpg"
    photo.write_bytes(b"1")
    (image,) = listed(tmp_path / "photos")
    photo.unlink()
    photo.symlink_to("/etc/passwd")
    with pytest.raises(UnreadableImage, match="is a link out of"):
        image()


def test_large_files_are_not_read(tmp_path: Path) -> None:
    """Whatever holds them: a sparse file has its size for nothing. A file that says 0 may have bytes."""
    for name, size in (("large.jpg", 1 << 40), ("fits.jpg", 10), ("much.jpg", 11)):
        with (tmp_path / name).open("wb") as file:
            file.truncate(size)
    with (tmp_path / "plain.tar").open("wb") as file:
        file.write(member("large.jpg", 1 << 40))
        file.truncate((1 << 40) + 2048)
    with at_most(8):
        found = read(tmp_path, Rules(max_bytes=10))
        assert bytes(10) == found.pop("fits.jpg")
        found |= read(tmp_path / "plain.tar", Rules(max_bytes=10))
        assert {"large.jpg", "much.jpg"} == set(found)
        assert all("bytes, more than --max-image-bytes 10." in str(told) for told in found.values())
    (status,) = listed("/proc/self/status")
    assert b"Pid:" in status()


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress], ids=["gz", "bz2", "xz"])
def test_packed_tars_are_read_whatever_their_name(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    """Members whose length is a multiple of a block's included; several packed streams may follow each other."""
    names = {f"{number}.jpg": os.urandom(number * 256) for number in range(1, 9)}
    plain = b"".join(member(name, len(body), body) for name, body in names.items()) + END
    for name in ("a.tar", "a.tar.gz"):
        (tmp_path / name).write_bytes(pack(plain[:5000]) + pack(plain[5000:]))
        assert names == read(tmp_path / name)
    (tmp_path / "a.tar").write_bytes(pack(plain)[:-2000])
    with pytest.raises(EmbedError, match=r"a\.tar cannot be read as a tar"):
        listed(tmp_path / "a.tar")


def test_bombs_in_tars_are_refused_in_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large members, endless headers, members that lead backwards, damaged ones: what came before is listed."""
    monkeypatch.setattr(archives, "_FREE_BYTES", 1 << 20)
    photo = member("1.jpg", 5, b"photo")
    zeros = gzip.compress(bytes(4 << 20)) * 4
    packed = {
        "large member": gzip.compress(photo + member("2.jpg", 80 << 20)) + zeros * 5,
        "large other": gzip.compress(photo + member("2.txt", 16 << 20)) + zeros + gzip.compress(END),
        "long name": gzip.compress(photo + member("././@LongLink", 1 << 34, b"x", tarfile.GNUTYPE_LONGNAME)),
        "pax": gzip.compress(photo + member("./PaxHeaders", 1 << 34, b"x", tarfile.XHDTYPE)),
        "plain pax": photo + member("./PaxHeaders", 1 << 34, b"x", tarfile.XHDTYPE),
        "pax upon pax": photo + member("./PaxHeaders", 10, b"9 a=12345\n", tarfile.XHDTYPE) * 5000,
        "backwards": photo + member("2.txt", -1024) + END,
        "image backwards": photo + member("2.jpg", -1024) + END,
        "damaged": photo + member("2.jpg", 5, b"photo").replace(b"2.jpg", b"3.jpg") + END,
        "damaged and packed": gzip.compress(photo + b"no header" + bytes(503) + END),
        "xz of much memory": lzma.compress(
            photo, filters=[{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 28}]
        ),
    }
    for name, body in packed.items():
        (tmp_path / "bomb.tar").write_bytes(body)
        found: list[str] = []
        with at_most(16), pytest.raises(EmbedError, match=r"bomb\.tar cannot be read as a tar: .* is kept"):
            found.extend(image.key for image in sources.images([str(tmp_path / "bomb.tar")], io.StringIO()))
        assert [f"{tmp_path}/bomb.tar::1.jpg"][: not name.startswith("xz")] == found[:1], name


def test_bombs_in_parquet_files_are_refused_in_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many rows of one large value, pages that inflate, and files that are damaged behind their description."""
    path, word = tmp_path / "t.parquet", f"{tmp_path}/t.parquet::image"
    large = pyarrow.table({"image": [bytes(1 << 20)] * 30})
    parquet.write_table(large, path, compression="zstd")
    with at_most(8):
        told = {str(told) for told in read(word, Rules(max_bytes=1 << 19)).values()}
    assert told == {f"{path}::{row} has 1048576 bytes, more than --max-image-bytes 524288." for row in range(30)}
    parquet.write_table(large, path, compression="zstd", use_dictionary=False)
    monkeypatch.setattr(archives, "_FREE_BYTES", 1 << 20)
    with pytest.raises(EmbedError, match=r"t\.parquet inflates to more than 100 times its size"):
        listed(word)
    parquet.write_table(pyarrow.table({"image": [os.urandom(5000)] * 9}), path)
    path.write_bytes(path.read_bytes().replace(path.read_bytes()[10:4000], b"\xff" * 3990))
    for torn in (path.read_bytes(), path.read_bytes()[:-100], b"PAR1" * 20):
        path.write_bytes(torn)
        with pytest.raises(EmbedError, match=r"t\.parquet cannot be read as Parquet"):
            listed(word)


def test_texts_are_lines_and_strings_of_a_column(tmp_path: Path) -> None:
    """Lines that are empty are left out; a line that is no UTF-8 is listed, and its error comes when it is sent."""
    path, table = tmp_path / "captions.txt", tmp_path / "captions.parquet"
    path.write_bytes("a cat\n\n café \r\n".encode() + b"\xff\n")
    parquet.write_table(pyarrow.table({"text": ["a dog", None, ""]}), table)
    found = listed(path) + listed(f"{table}::text")
    texts = [(one.key, one.text) for one in found if isinstance(one, KeyedText)]
    assert [(f"{path}:1", "a cat"), (f"{path}:3", " café "), (f"{path}:4", "\udcff")] == texts[:3]
    assert [(f"{table}::0", "a dog"), (f"{table}::2", "")] == texts[3:]
    assert 3 == sources.count([str(path)])
    errors = [body for body in encode_all(found) if isinstance(body, MicrotomeError)]
    assert ["UTF-8", "0 bytes"] == [word for error in errors for word in ("UTF-8", "0 bytes") if word in str(error)]
    path.write_text("x" * (1 << 15))
    with pytest.raises(EmbedError, match="Expected lines of less than"):
        listed(path)
