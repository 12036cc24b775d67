"""Clients generated from /openapi.json: openapi-python-client's and openapi-typescript's compile and have useful types.

Programs beside this one use them; their type checkers hold what the programs say of types.
"""

import json
import shutil
import subprocess
import sys
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.clients.conftest import KEY
from tests.e2e.processes import Gateway

HERE = Path(__file__).parent
TYPESCRIPT = HERE / "typescript"
NODE_MODULES = Path(sys.prefix) / "typescript" / "node_modules"
"""What `make test-clients` installs from the lock file, where npm is."""


@pytest.fixture(scope="module")
def document(gateway: Gateway, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The document that the gateway serves, as a file."""
    path = tmp_path_factory.mktemp("openapi") / "openapi.json"
    path.write_bytes(httpx.get(f"{gateway.url}/openapi.json", trust_env=False).raise_for_status().content)
    return path


@pytest.fixture
def words(gateway: Gateway, photos: list[Path]) -> list[str]:
    """Address, key and images, as the programs take them."""
    return [gateway.url, KEY, *(b64encode(photo.read_bytes()).decode() for photo in photos)]


def run(*command: object, cwd: Path) -> str:
    """Run a program that has to succeed, and return all that it writes."""
    pipe, both = subprocess.PIPE, subprocess.STDOUT
    done = subprocess.run([*map(str, command)], cwd=cwd, stdout=pipe, stderr=both, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_keys_are_part_of_the_document(document: Path) -> None:
    """Both ways to send one; what needs none says so."""
    found = json.loads(document.read_text())
    assert {"http", "apiKey"} == {scheme["type"] for scheme in found["components"]["securitySchemes"].values()}
    assert [{"bearer": []}, {"header": []}] == found["security"]
    assert [] == found["paths"]["/livez"]["get"]["security"]
    assert "security" not in found["paths"]["/embed"]["post"]


def test_a_generated_python_client(
    document: Path,
    words: list[str],
    tmp_path: Path,
    unit_vectors: NDArray[np.float32],
    tried: Callable[[str], None],
) -> None:
    """It is generated without a part missing, passes mypy with a program that uses it, and gets our vectors."""
    tried("openapi-python-client")
    binary = Path(sys.executable).with_name("openapi-python-client")
    made = run(binary, "generate", "--path", document, "--output-path", "generated", "--meta", "none", cwd=tmp_path)
    # Images are sent as application/octet-stream: the generator knows no wildcard.
    # Those that take images as they are: /embed, /classify, and Hugging Face's with an output and without.
    assert (4, 4) == (made.count("WARNING"), made.count("Unsupported content type image/*")), made
    (tmp_path / "generated" / "py.typed").touch()
    shutil.copy(HERE / "use_generated.py", tmp_path)
    settings = ("--strict", "--follow-imports=silent", "--config-file=", "--cache-dir=cache")
    run(sys.executable, "-m", "mypy", *settings, "use_generated.py", cwd=tmp_path)
    run(sys.executable, "-m", "compileall", "-q", "generated", cwd=tmp_path)
    told = json.loads(run(sys.executable, "use_generated.py", *words, cwd=tmp_path))
    checked(told, unit_vectors)
    assert ("Unknown model", ["Not an image", 1]) == (told["unknown"], told["form"])


def checked(told: dict[str, Any], unit_vectors: NDArray[np.float32]) -> None:
    """What both programs write: vectors of our route and OpenAI's, shapes, and a problem's title."""
    np.testing.assert_array_equal(np.float32(told["vectors"]), unit_vectors)
    np.testing.assert_allclose(np.float32(told["others"]), unit_vectors, rtol=1e-6)
    assert ("Bad request", "lite0") == (told["title"], told["default"])
    assert [unit_vectors.shape[1]] in np.ravel(told["shapes"]).reshape(-1, 1).tolist()


def test_a_generated_typescript_client(
    document: Path, words: list[str], tmp_path: Path, unit_vectors: NDArray[np.float32]
) -> None:
    """A program that uses the types compiles, strictly, and gets our vectors."""
    node = shutil.which("node")
    if node is None or not NODE_MODULES.exists():
        pytest.skip("needs node and npm, which are not installed here" if node is None else "run make test-clients")
    for name in ("use.ts", "tsconfig.json", "package.json"):
        shutil.copy(TYPESCRIPT / name, tmp_path)
    (tmp_path / "node_modules").symlink_to(NODE_MODULES)
    run(node, NODE_MODULES / "openapi-typescript" / "bin" / "cli.js", document, "-o", "api.d.ts", cwd=tmp_path)
    run(node, NODE_MODULES / "typescript" / "bin" / "tsc", "--project", ".", cwd=tmp_path)
    checked(json.loads(run(node, "use.js", *words, cwd=tmp_path)), unit_vectors)
