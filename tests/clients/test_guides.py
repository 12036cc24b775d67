"""The examples in docs/guides/ work as they stand, but for the gateway's address and key."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from service.http.compat import ALL
from tests.clients.conftest import KEY
from tests.clients.test_kserve import PYTHON
from tests.e2e.processes import Gateway
from tests.exported_models import REPOSITORY

GUIDES = REPOSITORY / "docs" / "guides"


def examples(guide: str) -> list[str]:
    """The Python in a guide, block by block."""
    return re.findall(r"^```python\n(.*?)^```", (GUIDES / guide).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.fixture
def shown(
    gateway: Gateway, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], str]:
    """Return a function that runs an example in the repository and returns what it prints."""
    monkeypatch.chdir(REPOSITORY)

    def run(example: str) -> str:
        code = example.replace("http://localhost:8000", gateway.url).replace("YOUR-KEY", KEY)
        exec(compile(code, "example", "exec"), {"__name__": "example"})
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize(("number", "printed"), [(0, r"112\n"), (1, r"1280 160\n"), (2, r"1280 \d+\n")])
def test_each_dialects_example_prints_what_it_promises(shown: Callable[[str], str], number: int, printed: str) -> None:
    """The layer's dimensions; floats and packed bits; pixels."""
    assert re.fullmatch(printed, shown(examples("dialects.md")[number]))


@pytest.mark.parametrize("guide", ["langchain.md", "qdrant.md"])
def test_the_search_finds_the_photo_itself_first(
    shown: Callable[[str], str], guide: str, tried: Callable[[str], None]
) -> None:
    """With a similarity of 1, and then another."""
    tried({"langchain.md": "langchain-core", "qdrant.md": "qdrant-client"}[guide])
    (example,) = examples(guide)
    first, second = shown(example).splitlines()
    assert f"1.000 {Path('examples/cat.jpg')}" == first
    assert re.fullmatch(r"0\.\d{3} examples/(astronaut|coffee)\.jpg", second)


def test_kserves_example_prints_the_vectors_shape(gateway: Gateway) -> None:
    """In the environment of its client."""
    (example,) = examples("kserve.md")
    code = example.replace("localhost:8000", f"127.0.0.1:{gateway.port}").replace("YOUR-KEY", KEY)
    done = subprocess.run([PYTHON, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=60)
    assert ("(1, 1280)\n", 0) == (done.stdout, done.returncode), done.stderr


def test_hugging_faces_example_names_the_cat(shown: Callable[[str], str]) -> None:
    """Three labels with their scores, the best first."""
    *_, example = examples("classify.md")
    lines = shown(example).splitlines()
    assert re.fullmatch(r"Egyptian cat 0\.4\d+", lines[0])
    assert 3 == len(lines)


def test_every_example_is_tried() -> None:
    """Nothing else stands in these guides."""
    guides = ("dialects.md", "langchain.md", "qdrant.md", "kserve.md", "weaviate.md")
    assert [3, 1, 1, 1, 0] == [len(examples(guide)) for guide in guides]


def test_every_dialect_is_in_the_guide() -> None:
    """By the name that switches it on."""
    table = (GUIDES / "dialects.md").read_text(encoding="utf-8")
    assert [] == [dialect.name for dialect in ALL if f"| `{dialect.name}` |" not in table]
