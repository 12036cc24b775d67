"""The reference is what the code says, and the README's promises name things that exist."""

import importlib.util
import re
import subprocess
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

REPOSITORY = Path(__file__).parents[2]
PAGES = ("commands.md", "metrics.md", "problems.md", "recipe.md", "settings.md")


def script(name: str) -> ModuleType:
    """Import a script of docs/, which is no package."""
    spec = importlib.util.spec_from_file_location(name, REPOSITORY / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", PAGES)
def test_reference_pages_are_what_the_code_says(page: str) -> None:
    """A page that differs wants `make docs`."""
    written = (REPOSITORY / "docs" / "reference" / page).read_text(encoding="utf-8")
    assert script("generate").PAGES[page]() == written, "run make docs"


def test_every_reference_page_is_generated() -> None:
    """No page of the reference is written by hand."""
    assert (
        set(PAGES)
        == set(script("generate").PAGES)
        == {p.name for p in (REPOSITORY / "docs" / "reference").glob("*.md")}
    )


def test_links_lead_to_files_of_the_repository() -> None:
    """Every relative link of every page is a file, so that `make site` can build from it."""
    site = script("site")
    pages = site.pages()
    assert {Path("README.md"), Path("docs/architecture.md"), Path("deploy/README.md")} <= set(pages)
    assert [] == [(page, to) for page in pages for to in site.links(page) if not (REPOSITORY / to).is_file()]


def test_every_decision_is_in_the_index() -> None:
    """A decision that the index does not list is found by search only."""
    folder = REPOSITORY / "docs" / "decisions"
    listed = re.findall(r"\]\(([^)]+)\)", (folder / "README.md").read_text(encoding="utf-8"))
    assert sorted(listed) == sorted(path.name for path in folder.glob("*.md") if path.name != "README.md")


def test_decisions_are_named_by_numbers_that_exist() -> None:
    """A decision that a page, a comment or a docstring names by its number is a file of docs/decisions/."""
    numbers = {path.name[:4] for path in (REPOSITORY / "docs" / "decisions").glob("0*.md")}
    listed = subprocess.run(
        ["git", "ls-files", "*.md", "*.py", "*.yaml"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout.split()
    wrong = [
        (name, number)
        for name in listed
        if not name.startswith(("tests/", "docs/decisions/performance.md"))
        for number in re.findall(r"\bdecisions?[ /](\d+)", (REPOSITORY / name).read_text(encoding="utf-8"))
        if number.zfill(4) not in numbers
    ]
    assert [] == wrong


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


def test_the_layers_of_the_architecture_page_are_those_that_are_checked() -> None:
    """The page has one row for each package, equal to import-linter's exhaustive contract."""
    contracts = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    layers = {
        contract["containers"][0]: contract["layers"]
        for contract in contracts["contracts"]
        if contract["type"] == "layers" and contract.get("exhaustive") and "." not in contract["containers"][0]
    }
    page = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| (`.*`) \|$", page, re.MULTILINE))
    shown = {package: row.replace("\\|", "|").strip("`").split("` → `") for package, row in rows.items()}
    assert layers == shown
