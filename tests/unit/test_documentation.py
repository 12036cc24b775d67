"""The reference is what the code says, and the README's promises name things that exist."""

import importlib
import importlib.util
import json
import re
import subprocess
import tomllib
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

from service.http.compat import ALL

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


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Import docs/run.py with what lies beside it."""
    monkeypatch.syspath_prepend(REPOSITORY / "docs")
    return importlib.import_module("run")


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


def test_every_dialect_is_in_the_guide() -> None:
    """By the name that switches it on."""
    table = (REPOSITORY / "docs" / "guides" / "dialects.md").read_text(encoding="utf-8")
    assert [] == [dialect.name for dialect in ALL if f"| `{dialect.name}` |" not in table]


def test_every_block_is_of_a_kind_that_is_run_or_says_why_not(runner: ModuleType) -> None:
    """The figures of docs/run.py are the number of blocks with marks: neither more nor fewer."""
    blocks = [block for page in runner.pages() for block in runner.read(page)[0]]
    assert {"first", "sh", "python", "yaml", "json", "text"} <= {block.language for block in blocks}
    assert runner.MARKED == Counter(reason[0] for block in blocks if (reason := block.reason()))


@pytest.mark.parametrize(
    ("shown", "came"),
    [
        ("0.0975", "0.09751"),
        ('["sha256:…", …]', '["sha256:12", 2, 3]'),
        ('{"vector": […], "dim": 2}', '{"dim": 2, "vector": [1, 2]}'),
        ('{"a": 1, …}', '{"a": 1, "b": 2}'),
    ],
)
def test_an_ellipsis_stands_for_anything(runner: ModuleType, shown: str, came: str) -> None:
    """Numbers are compared as they are shown."""
    assert runner.alike(runner.shown_json(shown), json.loads(came))


@pytest.mark.parametrize(
    ("shown", "came"),
    [
        ("0.0975", "0.0976"),
        ('["sha256:…"]', '["md5:12"]'),
        ("[1, 2]", "[1, 2, 3]"),
        ('{"a": 1}', '{"a": 1, "b": 2}'),
        ('{"a": 1, …}', '{"b": 1}'),
    ],
)
def test_what_is_shown_is_compared(runner: ModuleType, shown: str, came: str) -> None:
    """Another number, text, length or key is another answer."""
    assert not runner.alike(runner.shown_json(shown), json.loads(came))


def test_shown_lines_are_compared(runner: ModuleType) -> None:
    """A line of an ellipsis stands for any lines."""
    assert runner.alike_lines(["1.000 cat", "…", "0.… cup"], ["1.000 cat", "a", "b", "0.31 cup"])
    assert not runner.alike_lines(["1.000 cat", "…", "0.… cup"], ["1.000 cat", "0.31 tea"])
    assert not runner.alike_lines(["1.000 cat"], ["1.000 cat", "0.31 tea"])


def test_commands_may_take_several_lines(runner: ModuleType) -> None:
    """Continued, quoted, and here-documents; each knows the line where it begins."""
    block = runner.Block("page.md", 10, "sh", "a \\\n  b\n# nothing\nc 'd\ne'\n\nf <<X\ng\nX\n")
    assert [(10, "a \\\n  b"), (13, "c 'd\ne'"), (16, "f <<X\ng\nX")] == list(runner.commands(block))


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("true\ncat missing.txt\n", 2, "missing.txt: No such file"),
        ("exec 2>&1; false\n", 1, "exit code 1"),
        ("make run\ntrue\n", 1, "what stands below it in the block never runs"),
    ],
)
def test_a_command_that_fails_is_named_with_its_line(
    runner: ModuleType, tmp_path: Path, text: str, line: int, said: str
) -> None:
    """With what it printed."""
    page = runner.Page(tmp_path / "page", [])
    try:
        with pytest.raises(runner.Failed, match=rf"(?s)^{line}: .*{said}"):
            page.run(runner.Block("page.md", 1, "sh", text))
    finally:
        page.close()


def test_commands_within_sentences_have_options_that_exist(runner: ModuleType) -> None:
    """Blocks are run; what stands between backquotes is looked up in the reference of the command."""
    reference = (REPOSITORY / "docs" / "reference" / "commands.md").read_text(encoding="utf-8")
    sections: dict[str, str] = {}
    for command, text in re.findall(r"^## microtome (\w+)(.*?)(?=^## |\Z)", reference, re.MULTILINE | re.DOTALL):
        sections[command] = sections.get(command, "") + text
    named = [
        (page, command, option)
        for page in runner.pages()
        for command, words in re.findall(r"`microtome (\w+)([^`\n]*)`", (REPOSITORY / page).read_text(encoding="utf-8"))
        for option in ["", *re.findall(r"--[a-z-]+", words)]
    ]
    assert named
    assert [] == [found for found in named if found[1] not in sections or found[2] not in sections[found[1]]]
