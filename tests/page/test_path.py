"""A person's path: drop a photo, compare two, look for the nearest, see where a layer is active, copy the code."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from playwright.sync_api import expect

import microtome
from microtome.manifest import InputSpec
from microtome.preprocessing import decode
from tests.page.conftest import ASTRONAUT, CAT, COFFEE, EXAMPLES, MODEL, Person, Served

PHOTOS = [CAT, COFFEE, ASTRONAUT]
POOLED = ["stem", "block1", "block2", "block3", "block4", "block5", "block6", "block7", "top"]
MAPS = {"block3_map": "28", "block5_map": "14", "top_map": "7"}


@pytest.fixture(scope="module")
def vectors(served: Served) -> dict[str, NDArray[np.float32]]:
    """What another client gets for the same photos."""
    with microtome.Client(served.open.url) as client:
        return client.embed(PHOTOS, output=POOLED)


def cosine(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """The cosine of two vectors."""
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


def drawn(person: Person, canvas: str) -> NDArray[np.uint8]:
    """The pixels of a canvas, RGB."""
    size, pixels = person.page.evaluate(
        """id => { const canvas = document.getElementById(id);
        const all = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
        return [[canvas.height, canvas.width], Array.from(all)]; }""",
        canvas,
    )
    return np.array(pixels, np.uint8).reshape(*size, 4)[..., :3]


def test_one_photo(comes: Callable[..., Person], served: Served, vectors: dict[str, NDArray[np.float32]]) -> None:
    """Dropped, it is seen as the model sees it, with every output's size, norm and source, and the time by stage."""
    person = comes()
    assert person.page.locator("#views").is_hidden()
    person.drops(CAT)
    person.waits_for(1)
    with served.open.client() as client:
        spec = client.get("/models").json()["models"][0]["manifest"]["input"]
    exact = decode(CAT.read_bytes(), InputSpec(**spec), max_pixels=10**8)
    seen = drawn(person, "crop")
    assert exact.shape == seen.shape
    # The browser resamples in its own way; a crop that is off by two pixels differs by three times as much.
    assert np.abs(seen.astype(int) - exact).mean() < 3
    rows = person.rows("outputs")
    assert {*POOLED, *MAPS} == {row[0] for row in rows}
    for name, source, _, numbers, norm, *_ in rows:
        assert source in {"hit", "miss", "coalesced"}
        if name in vectors:
            assert str(vectors[name].shape[1]) == numbers
            assert float(norm) == pytest.approx(np.linalg.norm(vectors[name][0]), rel=0.01)
        else:
            assert numbers.startswith(MAPS[name])
    assert {"read", "network, browser"} < {row[0] for row in person.rows("times")}
    assert person.page.locator("#compare-none").is_visible()
    assert person.page.locator("#near").is_hidden()
    assert person.page.locator("#classes").is_hidden()


def test_two_photos_by_depth(comes: Callable[..., Person], vectors: dict[str, NDArray[np.float32]]) -> None:
    """A bar for each layer, early to late, with the numbers that another client computes; and what they say."""
    person = comes()
    person.chooses(CAT, COFFEE)
    person.waits_for(2)
    shown = {row[0]: float(row[1]) for row in person.rows("cosines")}
    assert POOLED == list(shown)
    for name, value in shown.items():
        assert value == pytest.approx(cosine(*vectors[name][:2]), abs=0.002), name
    most, least = max(shown, key=shown.__getitem__), min(shown, key=shown.__getitem__)
    expect(person.page.locator("#compare-words")).to_contain_text(f"most alike at {most}")
    expect(person.page.locator("#compare-words")).to_contain_text(f"least alike at {least}")
    widths = person.page.locator("#cosines .bar i").evaluate_all("all => all.map(one => one.style.width)")
    assert [pytest.approx(100 * max(0, value), abs=0.1) for value in shown.values()] == [float(w[:-1]) for w in widths]


def test_a_gallery(comes: Callable[..., Person], vectors: dict[str, NDArray[np.float32]]) -> None:
    """Neighbours of the chosen photo, layer by layer; one is compared, another is chosen, all are removed."""
    person = comes()
    person.chooses(CAT, COFFEE)
    person.waits_for(2)
    person.pastes(ASTRONAUT)
    person.waits_for(3)
    # Who adds one photo wants to see it.
    chosen = person.page.locator("#gallery [aria-pressed=true] img")
    expect(chosen).to_have_attribute("alt", "astronaut.jpg")
    for row in person.page.locator("#neighbours tbody tr").all():
        own = vectors[row.locator("th").inner_text()]
        found = {"cat.jpg": cosine(own[2], own[0]), "coffee.jpg": cosine(own[2], own[1])}
        order = sorted(found, key=found.__getitem__, reverse=True)
        names = [image.get_attribute("alt") for image in row.locator("img").all()]
        assert [f"Compare with {name}" for name in order] == names
    person.page.locator("#neighbours button").get_by_alt_text("Compare with coffee.jpg").first.click()
    expect(person.page.locator("#compare-words")).to_contain_text("astronaut.jpg and coffee.jpg")
    person.page.locator("#gallery").get_by_alt_text("cat.jpg").click()
    expect(chosen).to_have_attribute("alt", "cat.jpg")
    expect(person.page.locator("#seen")).to_contain_text("cat.jpg. 451")
    person.page.get_by_role("button", name="Remove all photos").click()
    expect(person.page.locator("#views")).to_be_hidden()
    expect(person.page.locator("#gallery li")).to_have_count(0)


def test_where_a_layer_is_active(comes: Callable[..., Person], served: Served) -> None:
    """The map as colours over the crop, as a table, and in words; the slider goes from the photo to the map."""
    person = comes()
    person.drops(CAT)
    person.waits_for(1)
    person.page.get_by_label("Layer", exact=True).select_option("top_map")
    with served.open.client() as plain:
        body = plain.post("/embed?output=top_map&heat=true", content=CAT.read_bytes()).json()
    heat = np.array(body["embeddings"][0]["vector"]).reshape(7, 7)
    with microtome.Client(served.open.url) as client:
        whole = client.embed(CAT, output="top_map").reshape(7, 7, 1280)
    np.testing.assert_allclose(heat, np.linalg.norm(whole, axis=2), rtol=1e-5)
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    expect(person.page.locator("#heat-words")).to_contain_text(f"row {row + 1} of 7, column {column + 1} of 7")
    person.page.get_by_text("The map as a table").click()
    expect(person.page.locator("#grid tbody tr")).to_have_count(7)
    table = [[float(cell) for cell in cells[1:]] for cells in person.rows("grid")]
    np.testing.assert_allclose(table, heat, rtol=0.01)
    blend = person.page.get_by_label("Photo to map")
    blend.press("Home")
    photo = drawn(person, "map")
    blend.press("End")
    colours = drawn(person, "map")
    # At one end the photo, at the other one end of the colours where the map has its least: dark violet.
    seen = np.repeat(np.repeat(drawn(person, "crop"), 2, 0), 2, 1)
    assert np.abs(photo.astype(int) - seen).mean() < 6
    low = np.array(np.unravel_index(heat.argmin(), heat.shape)) * 64 + 32
    assert np.abs(colours[tuple(low)].astype(int) - (68, 1, 84)).max() < 40


def test_vectors_come_from_the_cache(comes: Callable[..., Person]) -> None:
    """The same photo again is a hit, in every output."""
    person = comes()
    for again in range(2):
        person.chooses(COFFEE)
        person.waits_for(1 + again)
    assert {"hit"} == {row[1] for row in person.rows("outputs")}


def test_the_code_to_copy_runs(comes: Callable[..., Person], tmp_path: Path) -> None:
    """Both blocks as they stand, where the photos are; the numbers are those of the page."""
    person = comes(permissions=["clipboard-read", "clipboard-write"])
    person.chooses(CAT, COFFEE)
    person.waits_for(2)
    copied = {}
    for name in ("curl", "Python"):
        person.page.get_by_role("button", name=f"Copy {name}").click()
        expect(person.page.locator("#status")).to_have_text("Copied.")
        copied[name] = person.page.evaluate("navigator.clipboard.readText()")
    for photo in (CAT, COFFEE):
        (tmp_path / photo.name).symlink_to(EXAMPLES / photo.name)
    first = subprocess.check_output(["bash", "-c", f"export no_proxy='*'\n{copied['curl']}"], cwd=tmp_path, text=True)
    answer, _ = json.JSONDecoder().raw_decode(first)
    assert (MODEL, POOLED) == (answer["model"], [one["output"] for one in answer["embeddings"]])
    assert (1, 28 * 28) == np.load(tmp_path / "heat.npy").shape
    told = subprocess.check_output([sys.executable, "-c", copied["Python"]], cwd=tmp_path, text=True)
    found = {line.split()[0]: float(line.split()[-1]) for line in told.splitlines()}
    assert {row[0]: pytest.approx(float(row[1]), abs=0.002) for row in person.rows("cosines")} == found
