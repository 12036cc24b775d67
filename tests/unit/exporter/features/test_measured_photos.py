"""Lists of photos with numbers: columns and units, boxes, copies, and what is no such list, said in a sentence."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from exporter.errors import ImpossibleOption
from exporter.features.measured_photos import has_numbers, read_numbers


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with 12 small photos."""
    found = tmp_path_factory.mktemp("measured")
    for index in range(12):
        Image.new("RGB", (2, 2), (index, 0, 0)).save(found / f"{index:02}.png")
    return found


def written(folder: Path, head: str, row: str) -> Path:
    """Write a list with a line for each photo, in which `{}` is its number."""
    rows = [f"{index:02}.png,{row.replace('{}', str(index))}" for index in range(12)]
    (folder / "list.csv").write_text("\n".join([head, *rows]), encoding="utf-8")
    return folder / "list.csv"


def test_columns_have_names_units_and_numbers(folder: Path) -> None:
    """Names as they are written; splits and groups are columns of their own."""
    path = folder / "list.csv"
    rows = [f"{i:02}.png,{i}e-1, 2{i},{'test' if i > 9 else 'train'},g{i // 2}" for i in range(12)]
    text = "\n".join(["Path,Weight [kg],age (years),split,group", *rows])
    path.write_text(text, encoding="utf-8")
    assert has_numbers(path)
    found = read_numbers(path, None)
    assert found.columns == ("Weight", "age")
    assert found.units == ("kg", "years")
    assert np.allclose(found.values[[0, 11]], [[0.0, 20.0], [1.1, 211.0]])
    assert found.box is None
    assert {photo.split for photo in found.collection.photos[10:]} == {"test"}
    assert found.collection.photos[3].group == "g1"


def test_a_box_is_four_columns_in_any_order(folder: Path) -> None:
    """Other columns may be beside it."""
    path = written(folder, "path,width,height,age,X,y", "0.2{},0.3{},{},0.0{},0.1{}")
    assert read_numbers(path, None).box == (3, 4, 0, 1)


def test_copies_count_once_and_not_at_all_where_their_numbers_differ(folder: Path) -> None:
    """Both are named."""
    for name, of in (("same.png", "03.png"), ("other.png", "04.png")):
        (folder / name).write_bytes((folder / of).read_bytes())
    path = written(folder, "path,a", "{}")
    path.write_text(path.read_text() + "\nsame.png,3\nother.png,5\n")
    found = read_numbers(path, None)
    assert len(found.values) == len(found.collection.photos) == 11
    assert dict(found.collection.left_out) == {
        "same.png": "a copy of 03.png",
        "04.png": "a copy of other.png, with other numbers",
        "other.png": "a copy of 04.png, with other numbers",
    }


@pytest.mark.parametrize(
    ("head", "row", "said"),
    [
        ("path,split", "train", "Expected a column with numbers"),
        ("path,a", "{}x", "Expected a number as a .* line 2. Received: '0x'"),
        ("path,a", "", "Expected a number as a .* line 2. Received: ''"),
        ("path,a", "nan", "Expected a number as a .* Received: 'nan'"),
        ("path,a", "inf", "Received: 'inf'"),
        ("path,a", "1e40", "Received: '1e40'"),
        ("path,class", "hat{}", "name the column label"),
        ("path,a,b", "{},7", "Received: 7 in all photos to train on as b"),
        ("path,a,A", "{},{}", "different names"),
        ("path,a,split", "{},later", "as split"),
        ("path,x,y,width,height", "3,5,20,20", "Divide pixels by the photo's size"),
        ("path,x,y,width,height", "0.5,0.5,0,0.2", "as fractions"),
        ("path,a,split", "{},test", "photos to train on"),
    ],
)
def test_what_is_no_list_of_numbers_is_one_sentence(folder: Path, head: str, row: str, said: str) -> None:
    """Before anything is decoded."""
    with pytest.raises(ImpossibleOption, match=said) as raised:
        read_numbers(written(folder, head, row), None)
    assert "\n" not in str(raised.value)


def test_few_photos_are_too_few(folder: Path) -> None:
    """Ten are needed."""
    path = folder / "few.csv"
    path.write_text("path,a\n00.png,1\n01.png,2\n")
    with pytest.raises(ImpossibleOption, match="at least 10 photos"):
        read_numbers(path, None)


def test_a_list_with_labels_is_of_classes(folder: Path) -> None:
    """Whatever else it has; so is a folder."""
    assert not has_numbers(written(folder, "path,label,a", "hat,{}"))
    assert not has_numbers(folder)
