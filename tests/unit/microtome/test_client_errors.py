"""The client's errors are the server's: none is missing, none is retried that will fail again."""

import subprocess
import sys

import pytest

from microtome.client import errors as client_errors
from service import errors as server_errors
from service.errors import slug
from service.http.problems import STATUS

HEAVY = {
    "asyncio",
    "numpy",
    "httpx",
    "grpc",
    "PIL",
    "rich",
    "tensorflow",
    "keras",
    "service",
    "exporter",
    "modelserver",
}


@pytest.mark.parametrize("leaf", STATUS, ids=slug)
def test_every_error_of_the_server_has_a_class_of_its_own(leaf: type[server_errors.ServiceError]) -> None:
    """It is found by the problem's name, and it is temporary exactly when the server's is."""
    ours = client_errors.named(slug(leaf), "why", retry_after=2.0, request_id="r1")
    assert type(ours).__name__ == leaf.__name__
    assert ("why", slug(leaf), "r1") == (str(ours), ours.kind, ours.request_id)
    assert issubclass(leaf, server_errors.TemporarilyUnable) == isinstance(ours, client_errors.TemporarilyUnable)
    assert issubclass(leaf, server_errors.RequestRejected) == isinstance(ours, client_errors.RequestRejected)


def test_an_error_of_a_newer_server_is_a_rejection() -> None:
    """What is not known here is not retried."""
    assert type(client_errors.named("image-too-beautiful", "why")) is client_errors.RequestRejected


def test_importing_the_client_imports_nothing_heavy() -> None:
    """Neither TensorFlow nor NumPy nor httpx: what is not imported costs nothing."""
    program = "import sys\nfrom microtome import Client\nprint('\\n'.join(sys.modules))"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert set() == HEAVY & set(run.stdout.splitlines())
