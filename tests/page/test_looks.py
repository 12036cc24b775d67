"""At two widths, in both themes: no barrier that axe-core knows, nothing beside the screen; and by keyboard alone."""

from collections.abc import Callable

import pytest
from PIL import Image
from playwright.sync_api import expect

from tests.exported_models import REPOSITORY
from tests.page.conftest import ASTRONAUT, CAT, COFFEE, Person

PICTURES = REPOSITORY / "build" / "page"
"""Where pictures of the page are left, to look at; docs/ has copies."""

WIDTHS = {"wide": 1100, "narrow": 390}


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_every_look(comes: Callable[..., Person], width: str, theme: str) -> None:
    """Empty and full; text that is enlarged to twice its size still fits."""
    person = comes(viewport={"width": WIDTHS[width], "height": 900}, color_scheme=theme)
    expect(person.page.get_by_label("Model", exact=True)).to_be_enabled()
    person.sees_no_barrier()
    person.chooses(CAT, COFFEE, ASTRONAUT)
    person.waits_for(3)
    PICTURES.mkdir(parents=True, exist_ok=True)
    path = PICTURES / f"{width}-{theme}.png"
    person.page.screenshot(path=path, full_page=True)
    with Image.open(path) as picture:
        picture.convert("RGB").quantize(128).save(path, optimize=True)
    person.page.get_by_text("The map as a table").click()
    person.sees_no_barrier()
    over = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert 0 == person.page.evaluate(over)
    person.page.evaluate("document.documentElement.style.fontSize = '200%'")
    assert 0 == person.page.evaluate(over)


def test_by_keyboard_alone(comes: Callable[..., Person]) -> None:
    """Tab reaches everything in the order of the page, and what has the focus shows it."""
    person = comes()
    person.chooses(CAT, COFFEE, ASTRONAUT)
    person.waits_for(3)
    page = person.page
    page.locator("body").evaluate("body => { body.tabIndex = -1; body.focus(); body.removeAttribute('tabindex'); }")
    seen: list[str] = []
    for _ in range(60):
        page.keyboard.press("Tab")
        found = page.evaluate(
            """() => { const one = document.activeElement;
            return [one.id || one.dataset.copies || one.querySelector("img")?.alt || one.getAttribute("aria-label")
                || one.textContent.trim(), getComputedStyle(one).outlineStyle, one.id === "files"]; }"""
        )
        if found[0] in seen and found[0] == seen[0]:
            break
        assert found[1] != "none" or found[2], found
        seen.append(found[0])
    order = ["model", "key", "files", "cat.jpg", "coffee.jpg", "clear", "Table of outputs", "layer", "blend", "other"]
    assert order == [name for name in seen if name in order]
    assert {"The map as a table", "curl", "python", "Commands", "Compare with coffee.jpg"} < set(seen)
    page.locator("#gallery").get_by_role("button", name="coffee.jpg").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#seen")).to_contain_text("coffee.jpg")
    expect(page.locator("#gallery").get_by_role("button", name="coffee.jpg")).to_be_focused()


@pytest.mark.parametrize(("motion", "moves"), [("reduce", False), ("no-preference", True)])
def test_nothing_moves_for_those_who_ask(comes: Callable[..., Person], motion: str, moves: bool) -> None:
    """Bars grow at once with reduced motion."""
    person = comes(reduced_motion=motion)
    person.drops(CAT)
    person.waits_for(1)
    taken = person.page.locator("#times .bar i").first.evaluate("one => getComputedStyle(one).transitionDuration")
    assert moves == (taken != "0s")
