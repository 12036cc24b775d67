"""The reference is what the code says, and the README's promises name things that exist."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

REPOSITORY = Path(__file__).parents[2]
PAGES = ("commands.md", "metrics.md", "problems.md", "recipe.md", "settings.md")


def generator() -> ModuleType:
    """Import docs/generate.py, which is no package's."""
    spec = importlib.util.spec_from_file_location("generate", REPOSITORY / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", PAGES)
def test_reference_pages_are_what_the_code_says(page: str) -> None:
    """A page that differs wants `make docs`."""
    written = (REPOSITORY / "docs" / "reference" / page).read_text(encoding="utf-8")
    assert generator().PAGES[page]() == written, "run make docs"


def test_every_reference_page_is_generated() -> None:
    """No page of the reference is written by hand."""
    assert set(PAGES) == set(generator().PAGES) == {p.name for p in (REPOSITORY / "docs" / "reference").glob("*.md")}


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs/architecture.md"])
def test_links_lead_somewhere(page: str) -> None:
    """Every relative link of a page is a file or a folder of the repository."""
    path = REPOSITORY / page
    links = re.findall(r"\]\((?!http)([^)#]+)\)", path.read_text(encoding="utf-8"))
    assert [] == [link for link in links if not (path.parent / link).exists()]


def test_the_verbs_of_the_readme_exist() -> None:
    """`make run` and `make test`, the README's first commands, are verbs of the Makefile."""
    verbs = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    first = re.search(r"```sh\n(.*?)```", (REPOSITORY / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert first is not None
    wanted = re.findall(r"^make ([a-z-]+)", first[1], re.MULTILINE)
    assert ["run", "test"] == wanted
    assert set(wanted) <= verbs


def test_nothing_is_installed_by_a_name_that_is_on_no_index(repository: Path) -> None:
    """Neither of the wheels is on an index: pages and messages install them from a checkout or a file."""
    pages = [repository / "README.md", *(repository / "docs").rglob("*.md"), *(repository / "deploy").rglob("*.md")]
    sources = [
        path
        for part in ("exporter", "microtome", "modelserver", "service")
        for path in (repository / part).rglob("*.py")
    ]
    named = re.compile(r"pip install[^\n#]*\s['\"]?microtome\b")
    assert [] == [str(path) for path in [*pages, *sources] if named.search(path.read_text(encoding="utf-8"))]
