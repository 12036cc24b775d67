"""What a sweep reads, and mistakes that are one sentence before any work."""

from __future__ import annotations

from pathlib import Path

import pytest

from exporter.cli import main
from exporter.errors import ImpossibleOption
from exporter.features.photos import read_collection
from tests.pictures import png


def folder(tmp_path: Path, *names: str) -> Path:
    """Return a folder with a different photo under each name."""
    for index, name in enumerate(names):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(seed=index))
    return tmp_path


def test_folders_are_classes_also_below_train_and_test(tmp_path: Path) -> None:
    """The splits of a data set count as one."""
    photos = folder(tmp_path, "train/hat/a.jpg", "train/hat/b.jpg", "test/shoe/c.jpg", "test/hat/d.jpg")
    found = read_collection(photos, "search", None)
    assert {photo.name: photo.label for photo in found.photos} == {
        "train/hat/a.jpg": "hat", "train/hat/b.jpg": "hat", "test/shoe/c.jpg": "shoe", "test/hat/d.jpg": "hat",
    }  # fmt: skip


def test_groups_from_folders_and_from_names(tmp_path: Path) -> None:
    """The photo's folder, or what a pattern finds in its name."""
    photos = folder(tmp_path, "hat/one/a_1.jpg", "hat/one/a_2.jpg", "hat/two/b_1.jpg", "shoe/three/c_1.jpg")
    by_folder = read_collection(photos, "search", "folder")
    assert [photo.group for photo in by_folder.photos] == ["hat/one", "hat/one", "hat/two", "shoe/three"]
    by_name = read_collection(photos, "search", r"(\w+)_\d")
    assert [photo.group for photo in by_name.photos] == ["a", "a", "b", "c"]


def test_copies_are_left_out_and_few_photos_are_warned_of(tmp_path: Path) -> None:
    """All copies across classes; all but the first within a class."""
    photos = folder(tmp_path, "hat/a.jpg", "hat/b.jpg", "shoe/c.jpg", "shoe/d.jpg")
    (photos / "hat" / "a2.jpg").write_bytes((photos / "hat" / "a.jpg").read_bytes())
    (photos / "hat" / "c2.jpg").write_bytes((photos / "shoe" / "c.jpg").read_bytes())
    found = read_collection(photos, "search", None)
    assert [photo.name for photo in found.photos] == ["hat/a.jpg", "hat/b.jpg", "shoe/d.jpg"]
    assert {name for name, _ in found.left_out} == {"hat/a2.jpg", "hat/c2.jpg", "shoe/c.jpg"}
    assert "fewer than 10" in found.warnings[0]


def test_an_index_with_groups(tmp_path: Path) -> None:
    """Path, label, group; a photo without a group is one of its own."""
    photos = folder(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    (photos / "index.csv").write_text("path,label,group\na.jpg,x,1\nb.jpg,x,1\nc.jpg,y,\n", encoding="utf-8")
    found = read_collection(photos / "index.csv", "search", None)
    assert [(photo.label, photo.group) for photo in found.photos] == [("x", "1"), ("x", "1"), ("y", "c.jpg")]


def test_unlabelled_photos(tmp_path: Path) -> None:
    """Photos without folders have no labels, which search can do without."""
    photos = folder(tmp_path, "a.jpg", "b.jpg")
    assert read_collection(photos, "search", None).kind == "unlabelled"


@pytest.mark.parametrize(
    ("names", "use", "said"),
    [
        ((), "search", "Expected photos"),
        (("hat/a.jpg", "hat/b.jpg"), "search", "at least two classes"),
        (("hat/a.jpg", "shoe/b.jpg"), "search", "two photos or more"),
        (("a.jpg", "b.jpg"), "classify", "have no labels"),
    ],
)
def test_photos_that_cannot_be_swept(tmp_path: Path, names: tuple[str, ...], use: str, said: str) -> None:
    """An empty folder, one class, classes of one photo, no labels to classify by."""
    with pytest.raises(ImpossibleOption, match=said):
        read_collection(folder(tmp_path, *names), use, None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("path,class\na.jpg,x\n", "Expected the columns path, label"),
        ("path,label\nnone.jpg,x\n", "none.jpg, line 2"),
        ("a,b,same\na.jpg,b.jpg,maybe\n", "Expected 1 or 0"),
        ("a,b,same\na.jpg,b.jpg,1\n", "of one kind"),
    ],
)
def test_lists_that_cannot_be_read(tmp_path: Path, text: str, said: str) -> None:
    """Wrong columns, a photo that is not there, an unclear answer, pairs of one kind; each with its line."""
    photos = folder(tmp_path, "a.jpg", "b.jpg")
    (photos / "list.csv").write_text(text, encoding="utf-8")
    with pytest.raises(ImpossibleOption, match=said):
        read_collection(photos / "list.csv", "duplicates", None)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--backbone", "EfficientNetLite"), "Nearest: EfficientNetLite2"),
        (("--backbone", "VGG16", "--resize", "crops"), "Nearest: crop"),
        (("--backbone", "VGG16=weights.h5"), "which is not there"),
        (("--backbone", "mine:make"), "Expected --scaling"),
        (("--backbone", "VGG16"), "Expected a folder of photos"),
    ],
)
def test_options_that_cannot_be(options: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One sentence, exit code 2, nothing written."""
    assert main(["sweep", "nowhere", *options]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert said in err
