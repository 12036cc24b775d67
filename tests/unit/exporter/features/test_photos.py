"""What a sweep reads, and mistakes that are one sentence before any work."""

from __future__ import annotations

import os
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


def test_groups_are_folders_of_lists_and_of_unlabelled_photos_too(tmp_path: Path) -> None:
    """The folder in a list's path; and what a pattern finds, without labels."""
    photos = folder(tmp_path, "one/a.jpg", "one/b.jpg", "two/c.jpg")
    (photos / "list.csv").write_text("path,label\none/a.jpg,x\none/b.jpg,y\ntwo/c.jpg,x\n", encoding="utf-8")
    assert [one.group for one in read_collection(photos / "list.csv", "search", "folder").photos] == [
        "one", "one", "two",
    ]  # fmt: skip
    assert [one.group for one in read_collection(photos / "one", "search", r"\w").photos] == ["a", "b"]


def test_a_list_as_spreadsheets_write_it(tmp_path: Path) -> None:
    """A byte order mark, carriage returns, quotes, capitals, blanks, an absolute path, more cells than columns."""
    photos = folder(tmp_path, "a.jpg", " b, c.jpg", "d.jpg")
    rows = ["Path, Label ", '"a.jpg","hat "', '" b, c.jpg", hat', "", f"{photos / 'd.jpg'},shoe,,more"]
    (photos / "list.csv").write_text("\r\n".join(rows), encoding="utf-8-sig")
    found = read_collection(photos / "list.csv", "search", None)
    assert sorted((photo.path.name, photo.label) for photo in found.photos) == [
        (" b, c.jpg", "hat"), ("a.jpg", "hat"), ("d.jpg", "shoe"),
    ]  # fmt: skip


def test_what_lies_about_in_folders(tmp_path: Path) -> None:
    """Links are followed, but not round; what is hidden is passed over; other files and empty folders are named."""
    photos = folder(tmp_path / "photos", "hat/a.jpg", "hat/b.JPG", ".checkpoints/c.jpg", "__MACOSX/hat/._a.jpg")
    elsewhere = folder(tmp_path / "elsewhere", "shoe/0.jpg", "shoe/1.jpg", "shoe/2.jpg", "shoe/3.jpg", "shoe/d.jpg")
    for name in ("0", "1", "2", "3"):  # of these seeds there are photos already
        (elsewhere / "shoe" / f"{name}.jpg").unlink()
    (photos / "shoe").symlink_to(elsewhere / "shoe")
    (photos / "hat" / "round").symlink_to(photos)
    (photos / "hat" / "gone.jpg").symlink_to("nowhere.jpg")
    (photos / "Hat").mkdir()
    (photos / "Hat" / "e.png").write_bytes(png(seed=9))
    (photos / "bag").mkdir()
    (photos / "hat" / "phone.heic").write_bytes(b"no photo that we read")
    found = read_collection(photos, "search", None)
    assert [photo.name for photo in found.photos] == ["Hat/e.png", "hat/a.jpg", "hat/b.JPG", "shoe/d.jpg"]
    assert dict(found.left_out) == {"hat/gone.jpg": "a link to no file"}
    said = " ".join(found.warnings)
    assert "passed over: 1 .heic" in said
    assert "Folders without photos: bag." in said
    assert "'Hat', 'hat'" in said


def test_names_that_are_no_text(tmp_path: Path) -> None:
    """Names of other encodings are shown with their bytes, and told apart."""
    photos = folder(tmp_path, "hat/a.jpg", "hat/b.jpg", "shoe/c.jpg", "shoe/d.jpg")
    for old, new in (("c", b"\xfc"), ("d", b"\xfd")):
        os.rename(photos / "shoe" / f"{old}.jpg", os.fsencode(photos / "shoe") + b"/" + new + b".jpg")  # noqa: PTH104
    names = [photo.name for photo in read_collection(photos, "search", None).photos]
    assert names == ["hat/a.jpg", "hat/b.jpg", r"shoe/\udcfc.jpg", r"shoe/\udcfd.jpg"]


def test_a_folder_too_high_up_is_told_from_one_class(tmp_path: Path) -> None:
    """Which folder to give instead."""
    folder(tmp_path / "one", "unpacked/hat/a.jpg", "unpacked/shoe/b.jpg")
    with pytest.raises(ImpossibleOption, match=r"If the folders in .*/unpacked are the classes"):
        read_collection(tmp_path / "one", "search", None)
    folder(tmp_path / "two", "images/a.jpg", "images/b.jpg")
    with pytest.raises(ImpossibleOption, match=r"without labels, give .*/images\."):
        read_collection(tmp_path / "two", "search", None)


def test_only_copies(tmp_path: Path) -> None:
    """All photos are left out as copies, and the error says so."""
    photos = folder(tmp_path, "hat/a.jpg")
    (photos / "shoe").mkdir()
    (photos / "shoe" / "b.jpg").write_bytes((photos / "hat" / "a.jpg").read_bytes())
    with pytest.raises(ImpossibleOption, match=r"2 are left out, such as hat/a.jpg in another class also"):
        read_collection(photos, "search", None)


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


def test_a_photo_without_end_is_not_read(tmp_path: Path) -> None:
    """A hole of 2 TB takes nothing on the disk, and hours to read."""
    photos = folder(tmp_path, "hat/a.jpg", "hat/b.jpg", "shoe/c.jpg", "shoe/d.jpg")
    os.truncate(photos / "hat" / "a.jpg", 2 << 40)
    with pytest.raises(ImpossibleOption, match=r"Expected photos that can be read.*File too large"):
        read_collection(photos, "search", None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("path,class\na.jpg,x\n", "Expected the columns path, label"),
        ("path,label\nnone.jpg,x\n", "none.jpg, line 2"),
        ("a,b,same\na.jpg,b.jpg,maybe\n", "Expected 1 or 0"),
        ("a,b,same\na.jpg,b.jpg,1\n", "of one kind"),
        ("a,b,same\na.jpg,a.jpg,1\n", "Received: a.jpg twice, line 2"),
        ("a,b,same\na.jpg,b.jpg,1\nb.jpg,a.jpg,0\n", "as same and as different, line 3"),
        ("path,label\n~nobody-of-that-name/a.jpg,x\n", "photos that are there"),
        (f"path,label\n{'a' * 5000},x\n", "photos that are there"),
        ("path,label\na\0.jpg,x\n", "Expected"),
        ("path,label\na.jpg,x\n\xe9.jpg,x\n", "CSV file in UTF-8"),
        ("path;label\na.jpg;x\n", "separated by commas"),
    ],
)
def test_lists_that_cannot_be_read(tmp_path: Path, text: str, said: str) -> None:
    """Wrong columns, a photo that is not there, an unclear answer, pairs of one kind, …; each with its line."""
    photos = folder(tmp_path, "a.jpg", "b.jpg")
    (photos / "list.csv").write_text(text, encoding="latin-1")
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
