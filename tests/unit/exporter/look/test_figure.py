"""The figure's parts: the strongest channels, windows, a report of a tiny network, and what cannot be looked at."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import keras
import numpy as np
import pytest

from exporter.cli import main
from exporter.errors import ImpossibleOption, UnknownLayer
from exporter.graph.cut_points import EVERYTHING, Field, Span
from exporter.look import figure as figure_module
from exporter.look.figure import cut, strongest, window
from exporter.look.html import report
from exporter.look.pipeline import look
from exporter.look.subject import Request, Subject
from exporter.models.building import Built
from exporter.recipe.backbones import BACKBONES
from exporter.recipe.preprocessing import input_spec
from tests.pictures import noise, png
from tests.unit.exporter.small_models import token_model
from tests.unit.exporter.sweep.tiny import make

PIXELS = input_spec(32, 32, shortest_side=32)
REQUEST = Request("head", "avg", (), Path("photos"), Path("look.html"), 4, 2, None, None)


@pytest.fixture(scope="module")
def built() -> Built:
    """Return a tiny network dressed as a backbone; its layers are stem, body, sum, head and pool."""
    return Built(BACKBONES["MobileNet"], make(), "random", "random, for a test")


def test_strongest_photos_in_one_pass_over_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same as sorting everything; of equals the first; photos that are not there do not count."""
    monkeypatch.setattr(figure_module, "_ROWS", 7)
    peaks = np.random.default_rng(0).integers(-5, 20, (50, 6)).astype(np.float32)
    there = np.flatnonzero(np.arange(50) % 5)
    values, owners = strongest(peaks, there)
    for channel in range(6):
        wanted = sorted(there, key=lambda photo: (-peaks[photo, channel], photo))[:9]
        assert owners[:, channel].tolist() == wanted
        assert values[:, channel].tolist() == peaks[wanted, channel].tolist()


def test_windows_are_what_a_position_sees() -> None:
    """Also beyond the edge, where grey stands; a field as large as the photo is the whole photo."""
    span = Span(Fraction(4), Fraction(-3), Fraction(3))
    assert window(Field((span, span)), 0, 2, 32, 32) == (slice(-3, 4), slice(5, 12))
    wide = Span(Fraction(4), Fraction(-30), Fraction(30))
    assert window(Field((wide, span)), 3, 2, 32, 32) == (slice(0, 32), slice(5, 12))
    assert window(EVERYTHING, 0, 0, 32, 24) == (slice(0, 32), slice(0, 24))
    pixels = np.arange(32 * 32 * 3).reshape(32, 32, 3)
    found = cut(pixels, (slice(-3, 4), slice(28, 35)), 128)
    assert found.shape == (7, 7, 3)
    assert (found[:3] == 128).all()
    assert (found[:, 4:] == 128).all()
    np.testing.assert_array_equal(found[3:, :4], pixels[:4, 28:])


def test_a_look_goes_on_where_it_was_and_names_what_it_leaves_out(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A torn file and a copy are named; pictures that are there already are not made again."""
    for index in range(5):
        (tmp_path / f"{index}.png").write_bytes(png(seed=index))
    (tmp_path / "copy.png").write_bytes(png(seed=0))
    (tmp_path / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n torn")
    photos = tuple(sorted(tmp_path.glob("*.png")))
    request = replace(REQUEST, photos=photos, folder=tmp_path, out=tmp_path / "look.html")
    found = look(Subject(built, PIXELS, "head"), request)
    assert (found.photos, {name for name, _ in found.left_out}) == (5, {"copy.png", "torn.png"})
    assert [len(cells) for _, cells in found.channels] == [5] * 4
    peaks = [cells[0].peak for _, cells in found.channels]
    assert peaks == sorted(peaks, reverse=True) or np.mean(peaks[:2]) > np.mean(peaks[2:])
    assert [one.partner is not None for one in found.compared] == [True, True]
    text = report(found)
    assert "default-src 'none'" in text
    assert "The weights are random" in text
    assert text.count("fails the randomisation test") == 2
    assert "http" not in text.replace("http-equiv", "")
    monkeypatch.setattr(figure_module, "reconstruct", None)
    assert report(look(Subject(built, PIXELS, "head"), request)) == text


def test_photos_are_embedded_at_the_size_they_are_shown(built: Built, tmp_path: Path) -> None:
    """Twenty photos of a megapixel make a report of some ten kilobytes a photo at most."""
    for index in range(4):
        noise(1200, 900, index).save(tmp_path / f"{index}.jpg", quality=95)
    photos = tuple(sorted(tmp_path.glob("*.jpg")))
    request = replace(REQUEST, photos=photos, folder=tmp_path, out=tmp_path / "look.html", like=photos[0])
    text = report(look(Subject(built, PIXELS, "stem"), replace(request, layer="stem")))
    assert len(text) < 100_000
    assert f"Compared with {photos[0].name}: cosine 1.000" in text


def test_layers_without_a_map_and_networks_without_relu(built: Built) -> None:
    """One sentence, which names the last map or offers the heat maps."""
    with pytest.raises(UnknownLayer, match="The last map of MobileNet is tail"):
        Subject(built, PIXELS, "pool")
    with pytest.raises(UnknownLayer, match="Nearest: head"):
        Subject(built, PIXELS, "haed")
    tokens = replace(built, model=token_model())
    with pytest.raises(UnknownLayer, match="map of positions"):
        Subject(tokens, input_spec(8, 8, shortest_side=8), "mixed")
    subject = Subject(built, PIXELS, "head")
    with pytest.raises(ImpossibleOption, match="no --class without a classifier"):
        subject.want(replace(REQUEST, class_index=0))
    with pytest.raises(ImpossibleOption, match=r"Received: the tanh of stem .* --channels 0 for the heat maps"):
        bent(built).want(REQUEST)
    bent(built).want(replace(REQUEST, channels=0))


def bent(built: Built) -> Subject:
    """Return a subject whose first layer has no ReLU."""
    model = make()
    model.get_layer("stem").activation = keras.activations.tanh
    return Subject(replace(built, model=model), PIXELS, "head")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("EfficientNetLite", "--layer", "a"), "Nearest: EfficientNetLite2"),
        (("VGG16", "--layer", "a", "--photos", "nowhere"), "which is not there"),
        (("VGG16", "--layer", "a", "--photos", "{empty}"), "Received: none"),
        (("VGG16", "--layer", "a", "--like", "nowhere.jpg"), "Expected --like with a photo"),
        (("VGG16", "--layer", "a", "--out", "{empty}"), "Expected --out with a file"),
        (("VGG16", "--layer", "a", "--model", "b"), "Expected --model with a recipe"),
        (("VGG16", "--layer", "a", "--channels", "0", "--heat", "0"), "Expected channels or heat maps"),
        (("recipe.yaml", "--layer", "a", "--weights", "random"), "Expected --weights and --size with a backbone"),
        (("nowhere.yaml", "--layer", "a"), "nowhere.yaml"),
    ],
)
def test_options_that_cannot_be(
    options: tuple[str, ...], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One sentence, exit code 2, before TensorFlow is loaded."""
    assert main(["look", *(option.format(empty=tmp_path) for option in options)]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert said in err
