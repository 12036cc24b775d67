"""The client's errors are the server's: none is missing, none is retried that will fail again."""

import pickle
import subprocess
import sys

import pytest

from microtome.client import errors as client_errors
from microtome.errors import MicrotomeError, slug
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
def test_every_error_of_the_server_is_found_by_its_name(leaf: type[MicrotomeError]) -> None:
    """The client raises the class that the server's transports have a status for."""
    ours = client_errors.named(slug(leaf), "why", retry_after=2.0, request_id="r1")
    assert leaf is type(ours)
    assert ("why", slug(leaf), "r1") == (str(ours), ours.kind, ours.request_id)
    assert not isinstance(ours, client_errors.TemporarilyUnable) or ours.retry_after == 2.0


@pytest.mark.parametrize("leaf", STATUS, ids=slug)
def test_every_error_can_be_pickled(leaf: type[MicrotomeError]) -> None:
    """Ray's actors send outcomes to the driver."""
    ours = client_errors.named(slug(leaf), "why", retry_after=2.0, request_id="r1")
    theirs = pickle.loads(pickle.dumps(ours))
    assert (leaf, "why") == (type(theirs), str(theirs))
    assert vars(ours) == vars(theirs)


def test_an_error_of_a_newer_server_is_a_rejection() -> None:
    """What is not known here is not retried."""
    assert type(client_errors.named("image-too-beautiful", "why")) is client_errors.RequestRejected


def test_importing_the_client_imports_nothing_heavy() -> None:
    """Neither TensorFlow nor NumPy nor httpx: what is not imported costs nothing."""
    program = "import sys\nfrom microtome import Client\nprint('\\n'.join(sys.modules))"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert set() == HEAVY & set(run.stdout.splitlines())
