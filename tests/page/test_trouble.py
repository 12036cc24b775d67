"""Keys, photos that are none, a gateway that is busy or gone, models with classes: told in words, and mended."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Route, expect

from tests.page.conftest import ASTRONAUT, CAT, COFFEE, KEY, PREFIX, Person, Served


@pytest.mark.parametrize("slash", ["", "/"])
def test_a_key_is_asked_for_and_kept_nowhere(comes: Callable[..., Person], served: Served, slash: str) -> None:
    """Below a prefix, with and without a slash at its end; a wrong key is told, the right one goes on by itself."""
    person = comes(served.closed, PREFIX)
    page = person.page
    person.page.goto(person.url.rstrip("/") + slash)
    alert, key = page.get_by_role("alert"), page.get_by_label("API key")
    expect(alert).to_contain_text("Type an API key into the field above")
    expect(key).to_be_focused()
    person.chooses(CAT, COFFEE, ASTRONAUT)
    expect(alert).to_contain_text("Type an API key")
    key.fill("wrong")
    key.press("Enter")
    expect(alert).to_contain_text("is not known here")
    key.fill(KEY)
    key.press("Enter")
    # This gateway takes two photos in a request, so that the page has to send fewer at a time.
    person.waits_for(3)
    expect(alert).to_be_hidden()
    expect(page.locator("#curl")).to_contain_text("$KEY")
    assert [0, 0, ""] == page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]")
    assert [] == page.evaluate("indexedDB.databases()")
    assert KEY not in page.url + page.locator("#code").inner_text()
    page.reload()
    expect(alert).to_contain_text("Type an API key")
    expect(key).to_have_value("")


def test_a_file_that_is_no_photo(comes: Callable[..., Person], tmp_path: Path) -> None:
    """It is named with the gateway's words, alone and among photos; the others are shown."""
    notes = tmp_path / "notes.jpg"
    notes.write_text("to do: <b>nothing</b>")
    broken = tmp_path / "<i>half.jpg"
    broken.write_bytes(CAT.read_bytes()[:9000])
    person = comes()
    person.drops(notes)
    expect(person.page.locator("#faults")).to_contain_text("notes.jpg: Expected an image in one of the formats")
    expect(person.page.locator("#views")).to_be_hidden()
    person.drops(broken, CAT)
    person.waits_for(1)
    expect(person.page.locator("#faults li")).to_have_count(2)
    expect(person.page.locator("#faults")).to_contain_text("<i>half.jpg: The JPEG image is truncated")
    person.sees_no_barrier()


def test_a_format_that_the_browser_cannot_draw(comes: Callable[..., Person], tmp_path: Path) -> None:
    """A TIFF has vectors and neighbours all the same, and the page says why there is no picture."""
    from PIL import Image  # noqa: PLC0415

    tiff = tmp_path / "cat.tiff"
    Image.open(CAT).save(tiff)
    person = comes()
    person.chooses(CAT, COFFEE)
    person.waits_for(2)
    person.drops(tiff)
    person.waits_for(3)
    expect(person.page.locator("#seen")).to_contain_text("This browser cannot draw the file")
    expect(person.page.locator("#compare-words")).to_contain_text("cat.tiff and ")
    expect(person.page.locator("#heat-words")).to_contain_text("most active")
    person.sees_no_barrier()


def test_a_gateway_that_is_busy_and_one_that_is_gone(comes: Callable[..., Person]) -> None:
    """429 is waited out as it asks; a lost connection is told, and tried again with a button."""
    person, answers = comes(), iter(["busy", "gone"])

    def meet(route: Route) -> None:
        answer = next(answers, None)
        if answer == "busy":
            route.fulfill(status=429, headers={"Retry-After": "1"}, content_type="application/problem+json", body="{}")
        elif answer == "gone":
            route.abort()
        else:
            route.continue_()

    person.page.route("**/embed?*", meet)
    person.drops(CAT)
    expect(person.page.locator("#status")).to_contain_text("busy")
    expect(person.page.get_by_role("alert")).to_contain_text("The gateway does not answer")
    person.sees_no_barrier()
    person.page.get_by_role("button", name="Try again").click()
    person.waits_for(1)
    expect(person.page.get_by_role("alert")).to_be_hidden()


def test_a_model_that_changes_meanwhile(comes: Callable[..., Person]) -> None:
    """Vectors of two fingerprints are never compared: all photos are embedded again."""
    person, sent = comes(), []

    def newer(route: Route) -> None:
        answer = route.fetch()
        sent.append(route.request.url)
        told = answer.json()
        if len(sent) > 1 and "heat" not in route.request.url:
            told["fingerprint"] = "sha256:other"
        route.fulfill(response=answer, body=json.dumps(told))

    person.drops(CAT)
    person.waits_for(1)
    person.page.route("**/embed?*", newer)
    sent.append("the first was another's")
    person.drops(COFFEE)
    person.waits_for(2)
    # The new one, then both again.
    assert 3 == len([url for url in sent[1:] if "heat" not in url])


def test_classes_are_named(comes: Callable[..., Person]) -> None:
    """The five best, for a model that has such an output; its answers stand in for a gateway's."""
    person = comes()
    labels = [{"label": f"cat {index}", "id": f"n{index}", "index": index, "score": index / 10} for index in range(7)]
    prediction = {"index": 0, "labels": labels, "rejected": False, "cache": "miss"}

    def models(route: Route) -> None:
        answer = route.fetch()
        told: dict[str, Any] = answer.json()
        outputs = told["models"][0]["manifest"]["outputs"]
        outputs.append({**outputs[0], "name": "classes", "kind": "classes", "shape": [1000]})
        route.fulfill(response=answer, body=json.dumps(told))

    person.page.route("**/models", models)
    person.page.route("**/classify?*", lambda route: route.fulfill(json={"predictions": [prediction]}))
    person.page.reload()
    person.drops(CAT)
    person.waits_for(1)
    assert [[f"cat {index}", f"0.{index}00", ""] for index in (6, 5, 4, 3, 2)] == person.rows("labels")
    assert "classes" not in {row[0] for row in person.rows("outputs")}
    prediction["rejected"] = True
    person.drops(COFFEE)
    expect(person.page.locator("#classes-note")).to_contain_text("rejects this photo")
    person.sees_no_barrier()


def test_the_documentation_begins_with_a_file_chooser(comes: Callable[..., Person]) -> None:
    """From the page to /docs, to a photo, to a vector."""
    person = comes()
    person.page.get_by_role("link", name="API documentation").first.click()
    operation = person.page.locator("#operations-embeddings-embed")
    operation.click()
    operation.get_by_role("button", name="Try it out").click()
    operation.locator("input[type=file]").set_input_files(CAT)
    operation.get_by_role("button", name="Execute").click()
    expect(operation.locator(".live-responses-table td.response-col_status").last).to_contain_text("200")
    person.complaints.clear()
