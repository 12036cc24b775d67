"""Photos found by words, and labels in a person's own words, with a tiny CLIP."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import expect

import microtome
from tests.e2e.processes import Gateway, serving
from tests.page.conftest import ASTRONAUT, CAT, COFFEE, Person
from tests.page.test_looks import PICTURES, WIDTHS

PHOTOS = {"cat.jpg": CAT, "coffee.jpg": COFFEE, "astronaut.jpg": ASTRONAUT}


@pytest.fixture(scope="module")
def towers(tower_models: Path) -> Iterator[Gateway]:
    """A gateway with a model of images and text."""
    with (
        tempfile.TemporaryDirectory(prefix="microtome-words-", ignore_cleanup_errors=True) as path,
        serving(Path(path), tower_models, "clip_image,clip_text", page="true") as gateway,
    ):
        yield gateway


@pytest.mark.parametrize("width", WIDTHS)
def test_words_find_photos(comes: Callable[..., Person], towers: Gateway, width: str) -> None:
    """By the cosines that another client has; a photo that is added later takes its place; labels are compared."""
    person = comes(towers, viewport={"width": WIDTHS[width], "height": 900})
    page = person.page
    expect(page.get_by_label("Model", exact=True)).to_contain_text("clip")
    expect(page.locator("#words")).to_be_hidden()
    person.chooses(CAT, COFFEE)
    person.waits_for(2)
    page.get_by_label("Words that say").fill("a cup of coffee")
    page.get_by_role("button", name="Search").click()
    expect(page.locator("#words-note")).to_contain_text("Nearest to “a cup of coffee”")
    person.chooses(ASTRONAUT)
    person.waits_for(3)
    expect(page.locator("#found tbody tr")).to_have_count(3)
    with microtome.Client(towers.url) as client:
        words = client.embed(microtome.Text("a cup of coffee"), model="clip")
        cosines = {name: float(client.embed(path, model="clip") @ words) for name, path in PHOTOS.items()}
        labels = client.classify(CAT, model="clip", labels=["a cat", "a dog"]).labels
    order = sorted(cosines, key=cosines.__getitem__, reverse=True)
    found = {row[0].strip(): float(row[1]) for row in person.rows("found")}
    assert order == list(found)
    assert cosines == pytest.approx(found, abs=0.001)
    page.locator("#found").get_by_alt_text("Show cat.jpg").click()
    expect(page.locator("#seen")).to_contain_text("cat.jpg")
    page.get_by_label("Labels in your words").fill("a cat, a dog,")
    page.get_by_role("button", name="Choose", exact=True).click()
    expect(page.locator("#labels tbody tr")).to_have_count(2)
    scores = {row[0]: float(row[1]) for row in person.rows("labels")}
    assert [one.name for one in labels] == list(scores)
    assert {one.name: one.score for one in labels} == pytest.approx(scores, abs=0.001)
    person.sees_no_barrier()
    over = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert 0 == page.evaluate(over)
    PICTURES.mkdir(parents=True, exist_ok=True)
    path = PICTURES / f"words-{width}.png"
    page.screenshot(path=path, full_page=True)
    with Image.open(path) as picture:
        picture.convert("RGB").quantize(128).save(path, optimize=True)


def test_a_model_without_text_has_no_field_for_words(comes: Callable[..., Person]) -> None:
    """Nor one for labels."""
    person = comes()
    person.drops(CAT)
    person.waits_for(1)
    expect(person.page.locator("#words")).to_be_hidden()
    expect(person.page.locator("#choose")).to_be_hidden()
