"""What `microtome search` keeps, and which rows it finds; the command itself is run in tests/e2e."""

from pathlib import Path

import numpy as np
import pytest

from microtome.commands.embed.errors import EmbedError
from microtome.commands.embed.journal import FORMAT, Journal, Row
from microtome.commands.search import collection
from microtome.commands.search.collection import Collection, _held, _write, nearest
from microtome.commands.search.command import Asked, page
from tests.pictures import png

MODEL = {"name": "m", "version": 1, "fingerprint": "sha256:aa", "output": "top"}
ODD = "caf\udce9\n.png"
"""A name that is no UTF-8, with a line break."""


def unit(rows: int, seed: int = 0) -> collection.Vectors:
    """Random vectors of length 1."""
    found = np.random.default_rng(seed).standard_normal((rows, 16))
    vectors: collection.Vectors = (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)
    return vectors


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """A file of two photos, and one that cannot be embedded."""
    path = tmp_path / "kept.npy"
    with Journal(tmp_path / "journal") as journal:
        journal.begin({"format": FORMAT, "search": MODEL})
        keys = ["a.png\n1 1", f"{ODD}\n2 2", "gone.png\n3 3"]
        for key, vector in zip(keys, unit(3), strict=True):
            journal.put(Row(key, {"top": vector.tobytes()}))
        journal.put(Row("bad.png\n4 4", {}, ("broken-image", "It is broken.")))
        wanted = {*keys[:2], "bad.png\n4 4"}
        _write(path, Collection(MODEL), wanted, journal, wanted)
    return path


def test_rows_are_those_of_a_full_sort(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the size of the blocks: best first, of equal ones the first, without the row that is left out."""
    vectors = unit(50)[np.random.default_rng(1).integers(0, 40, 300)]
    cosines = vectors @ vectors[7]
    order = np.lexsort((np.arange(300), -cosines))
    order = order[order != 7]
    for rows in (7, 300, 8192):
        monkeypatch.setattr(collection, "_ROWS", rows)
        for count in (1, 10, 1000):
            found = nearest(vectors, vectors[7], count, 7)
            # Blocks of other sizes are added in another order.
            np.testing.assert_allclose([score for _, score in found], cosines[order][:count], atol=1e-6)
            assert len({row for row, _ in found}) == len(found) == min(count, 299)


def test_what_is_kept_is_read_again(kept: Path) -> None:
    """Any name, the rows in their order, and what failed; what has changed since the run began is not there."""
    found = Collection.read(kept)
    assert ["a.png\n1 1", f"{ODD}\n2 2"] == list(found.keys)
    assert [("bad.png\n4 4", "broken-image", "It is broken.")] == list(found.failed)
    np.testing.assert_array_equal(found.vectors, unit(3)[:2])
    assert [(ODD, 1.0)] == [(name, round(score, 5)) for name, score in found.nearest(unit(3)[1], 1)]


@pytest.mark.parametrize("keep", [0, 10, 100, -1, -9])
def test_a_damaged_file_is_said(kept: Path, keep: int) -> None:
    """Cut anywhere."""
    kept.write_bytes(kept.read_bytes()[:keep])
    with pytest.raises(EmbedError, match="--restart"):
        Collection.read(kept)


def test_vectors_of_another_model_are_never_compared(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Another version starts over and says so; another model or output is refused."""
    assert 2 == len(_held(kept, MODEL).keys)
    assert 0 == len(_held(kept, {**MODEL, "version": 2, "fingerprint": "sha256:bb"}).keys)
    assert "all photos are embedded again" in capsys.readouterr().err
    for other in ({"output": "early"}, {"name": "n"}):
        with pytest.raises(EmbedError, match="do not compare"):
            _held(kept, {**MODEL, **other})


def test_the_page_holds_pictures_and_escapes_names(tmp_path: Path) -> None:
    """Each picture has words for those who do not see it; one that is gone is a panel."""
    name = '"><script>.png'
    (tmp_path / name).write_bytes(png(1, 40, 20))
    asked = Asked(str(tmp_path / name), unit(1)[0], ".")
    text = page(tmp_path, "2 photos", [asked], [[(name, 0.99999), ("gone.png", -0.5)]])
    assert "<script" not in text
    assert [2, 1] == [text.count(part) for part in ('src="data:image/webp', 'role="img" aria-label="2: gone')]
    assert ("(equal)" in text, 'style="width: 0%"' in text) == (True, True)
