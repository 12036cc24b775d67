"""One model server with EfficientNet-Lite0 at many depths, two gateways over it, and a browser: for all tests here."""

import os
import shutil
import tempfile
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.browser import chromium
from tests.e2e.processes import Gateway, ModelServer
from tests.exported_models import REPOSITORY, export_once

EXAMPLES = REPOSITORY / "examples"
CAT, COFFEE, ASTRONAUT = (EXAMPLES / f"{name}.jpg" for name in ("cat", "coffee", "astronaut"))
KEY = "secret"
KEYS = "search sha256:2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"
PREFIX = "/api/images"
MODEL = "lite0_depth"
CLOSED = {"page": "true", "api_keys": KEYS, "path_prefix": PREFIX, "max_images": 2}
SECONDS = 60_000
"""Milliseconds that the page may take for anything; the machine may be busy."""

REPORTS = """window.reports = [];
document.addEventListener("securitypolicyviolation", event => window.reports.push(event.violatedDirective));"""


@dataclass(frozen=True)
class Served:
    """A gateway that serves all callers, and one below a path prefix that serves holders of a key."""

    open: Gateway
    closed: Gateway


@pytest.fixture(scope="session")
def served(shared_directory: Path) -> Iterator[Served]:
    """Both gateways, serving."""
    chromium()
    exported = export_once(REPOSITORY / "recipes" / "lite0_depth.yaml", shared_directory / "depth_models")
    with tempfile.TemporaryDirectory(prefix="microtome-page-", ignore_cleanup_errors=True) as path:
        directory = Path(path)
        models = Path(shutil.copytree(exported, directory / "models", copy_function=os.link))
        server = ModelServer(directory, models)
        (directory / "closed").mkdir()
        gateways = Served(
            Gateway(directory, server.address, MODEL, page="true"),
            Gateway(directory / "closed", server.address, MODEL, **CLOSED),
        )
        processes = (server, gateways.open, gateways.closed)
        try:
            for process in processes:
                process.start()
            yield gateways
        finally:
            for process in reversed(processes):
                process.destroy()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The system's Chromium."""
    expect.set_options(timeout=SECONDS)
    with sync_playwright() as playwright:
        words = ["--no-sandbox", "--no-proxy-server", "--disable-gpu"]
        found = playwright.chromium.launch(executable_path=chromium(), args=words)
        yield found
        found.close()


@dataclass
class Person:
    """Someone in front of the page, and what the browser noticed meanwhile."""

    page: Page
    url: str
    elsewhere: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Listen."""
        self.page.add_init_script(REPORTS)
        self.page.on("request", self._asked)
        self.page.on("console", self._told)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _asked(self, request: Any) -> None:
        if not request.url.startswith((self.url.rstrip("/"), "blob:", "data:")):
            self.elsewhere.append(request.url)

    def _told(self, message: Any) -> None:
        # A refusal is told as a failed resource, too; the tests look at what the page makes of it, and at its pixels.
        expected = message.text.startswith(("Failed to load resource", "Canvas2D: Multiple readback"))
        if message.type in {"error", "warning"} and not expected:
            self.complaints.append(message.text)

    def opens(self) -> None:
        """Go to the page."""
        self.page.goto(self.url)

    def drops(self, *files: Path) -> None:
        """Drop files somewhere on the page."""
        self._hands("drop", "dataTransfer", files)

    def pastes(self, *files: Path) -> None:
        """Paste files."""
        self._hands("paste", "clipboardData", files)

    def _hands(self, event: str, where: str, files: tuple[Path, ...]) -> None:
        self.page.evaluate(
            """([event, where, files]) => {
                const transfer = new DataTransfer();
                for (const [name, data] of files) {
                    const bytes = Uint8Array.from(atob(data), letter => letter.charCodeAt(0));
                    transfer.items.add(new File([bytes], name));
                }
                const made = event === "drop" ? new DragEvent(event, {[where]: transfer, bubbles: true})
                    : new ClipboardEvent(event, {[where]: transfer, bubbles: true});
                document.querySelector("main").dispatchEvent(made);
            }""",
            [event, where, [[file.name, b64encode(file.read_bytes()).decode()] for file in files]],
        )

    def chooses(self, *files: Path) -> None:
        """Choose files in the dialogue."""
        self.page.get_by_label("Choose photos").set_input_files(list(files))

    def waits_for(self, photos: int) -> None:
        """Until so many photos have vectors, and all that is drawn of them is there."""
        expect(self.page.locator("#status")).to_contain_text(f"{photos} photo{'s' * (photos > 1)} embedded")

    def rows(self, table: str) -> list[list[str]]:
        """The cells of a table's rows, with the first line of each."""
        rows = self.page.locator(f"#{table} tbody tr").all()
        return [[cell.split("\n")[0] for cell in row.locator("th, td").all_inner_texts()] for row in rows]

    def sees_no_barrier(self) -> None:
        """axe-core finds nothing."""
        found = Axe().run(self.page)
        assert found.violations_count == 0, found.generate_report()

    def ends(self) -> None:
        """Nothing was asked of others, no policy was broken, and no script failed."""
        assert [] == self.page.evaluate("window.reports || []")
        assert ([], []) == (self.elsewhere, self.complaints)
        self.page.context.close()


@pytest.fixture
def comes(request: pytest.FixtureRequest, browser: Browser) -> Iterator[Callable[..., Person]]:
    """Return a function that brings a person to a gateway's page, with a browser that remembers nothing."""
    people: list[Person] = []

    def come(gateway: Gateway | None = None, prefix: str = "", **options: Any) -> Person:
        context = browser.new_context(**{"viewport": {"width": 1100, "height": 900}, **options})
        asked = gateway or request.getfixturevalue("served").open
        person = Person(context.new_page(), f"{asked.url}{prefix}/")
        people.append(person)
        person.opens()
        return person

    yield come
    for person in people:
        person.ends()
