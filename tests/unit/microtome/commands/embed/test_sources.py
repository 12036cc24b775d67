"""Listing images: in the order of their names, as far as asked, and what is no list says so."""

import io
import tarfile
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from microtome.commands.embed import sources
from microtome.commands.embed.errors import EmbedError
from microtome.commands.embed.sources import ImageFile


def keys(*words: object, stdin: str = "") -> list[str]:
    """The keys of what is listed."""
    return [image.key for image in sources.images(map(str, words), io.StringIO(stdin))]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with images in it and below it, and other files."""
    for name in ("b/2.JPG", "b/1.png", "a.webp", "notes.txt", "b/._1.png", "[c].jpg"):
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
    assert [f"{folder}/notes.txt", f"{folder}/[c].jpg"] == keys(folder / "notes.txt", folder / "[c].jpg")


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
