"""HandleReloadConfigRequest: section 1.6 of the reference."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from google.protobuf import text_format
from tensorflow_serving.apis import model_management_pb2

from tests.contract.tfserving.requests import images, predict
from tests.contract.tfserving.server_process import Client, ServerProcess, eventually, status_of
from tests.contract.tfserving.tiny_models import write_held, write_tiny

INVALID = grpc.StatusCode.INVALID_ARGUMENT
UNSUPPORTED = (
    "ServerModelConfig type not supported by HandleReloadConfigRequest. Only ModelConfigList is currently supported"
)
PLATFORM_CHANGED = (
    "Illegal to change a model's platform. For model tiny platform was tensorflow and new platform requested is torch"
)
NO_PLATFORM = (
    "Illegal setting neither ModelServerConfig::model_type (deprecated) nor ModelServerConfig::model_platform, "
    "model name is a"
)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with two models, and one that is broken."""
    models = tmp_path_factory.mktemp("models")
    for version in (1, 2):
        write_tiny(models / "tiny" / str(version))
    write_tiny(models / "other" / "1")
    (models / "broken" / "1").mkdir(parents=True)
    return models


@pytest.fixture(scope="module")
def client(models: Path, socket_directory: Path) -> Iterator[Client]:
    """Return a client of a server that serves ``tiny`` at first."""
    config = models.parent / f"{models.name}.config"
    config.write_text(f"model_config_list {{ config {{ {_entry(models, 'tiny')} }} }}")
    with (
        ServerProcess(
            socket_directory / "reload",
            f"--model_config_file={config}",
            f"--models_dir={models}",
            "--enable_reload_requests",
            "--max_num_load_retries=0",
        ) as server,
        Client(server.ready().address) as client,
    ):
        yield client


def _request(*entries: str) -> model_management_pb2.ReloadConfigRequest:
    request = model_management_pb2.ReloadConfigRequest()
    text_format.Parse("\n".join(f"config {{ {entry} }}" for entry in entries), request.config.model_config_list)
    return request


def _reload(client: Client, *entries: str) -> model_management_pb2.ReloadConfigResponse:
    return client.models.HandleReloadConfigRequest(_request(*entries), timeout=30)


def _entry(models: Path, name: str, more: str = "") -> str:
    return f'name: "{name}" base_path: "{models / name}" model_platform: "tensorflow" {more}'


def test_1_6_a_new_model_serves_when_the_call_returns(client: Client, models: Path) -> None:
    """And one that is left out is unloaded, in its own time."""
    answer = _reload(client, _entry(models, "other"))

    assert 0 == answer.status.error_code
    assert {1: "AVAILABLE"} == client.states("other")
    eventually(lambda: client.states("tiny") == {2: "END"}, "tiny is unloaded")

    _reload(client, _entry(models, "tiny"))

    assert "AVAILABLE" == client.states("tiny")[2]


def test_1_6_labels_can_be_moved_between_available_versions(client: Client, models: Path) -> None:
    """First load, then label: a label for a version that is not loaded is refused."""
    everything = "model_version_policy { all {} }"
    _reload(client, _entry(models, "tiny", everything))
    eventually(lambda: client.states("tiny") == {2: "AVAILABLE", 1: "AVAILABLE"}, "both serve")

    for version in (1, 2):
        _reload(client, _entry(models, "tiny", everything + f'version_labels {{ key: "stable" value: {version} }}'))
        assert version == client.predict(predict(label="stable")).model_spec.version.value

    wrong = everything + 'version_labels { key: "stable" value: 9 }'
    assert (
        grpc.StatusCode.FAILED_PRECONDITION,
        "Request to assign label to version 9 of model tiny, which is not currently available for inference",
    ) == status_of(lambda: _reload(client, _entry(models, "tiny", wrong)))


def test_1_6_a_second_reload_behind_a_first(client: Client, models: Path, tmp_path: Path) -> None:
    """The first waits for a model that is held inside its load; the second is not even looked at until then."""
    release = tmp_path / "release"
    write_held(models / "held" / "1", release)
    _reload(client, _entry(models, "tiny"))
    first = client.models.HandleReloadConfigRequest.future(
        _request(_entry(models, "tiny"), _entry(models, "held")), timeout=60
    )
    eventually(lambda: client.states("held") == {1: "LOADING"}, "the first waits for its model")
    second = client.models.HandleReloadConfigRequest.future(_request(_entry(models, "other")), timeout=60)
    under_way = predict(inputs={"images": images(3)})

    for _ in range(20):  # calls that came after the second and are answered: it had its chance
        assert client.predict(under_way).outputs
    assert (False, False) == (first.done(), second.done())
    assert "AVAILABLE" == client.states("tiny")[2]

    release.touch()

    assert (0, 0) == (first.result().status.error_code, second.result().status.error_code)
    assert {1: "AVAILABLE"} == client.states("other")
    eventually(lambda: client.states("held") == {1: "END"} and client.states("tiny")[2] == "END", "both are left out")


def test_1_6_new_versions_of_known_models_are_not_awaited(client: Client, models: Path, tmp_path: Path) -> None:
    """The call returns while the version that it brought about is held inside its load; the old one serves."""
    release = tmp_path / "release"
    _reload(client, _entry(models, "other"))
    write_held(models / "other" / "2", release)

    answer = _reload(client, _entry(models, "other", "model_version_policy { all {} }"))

    assert 0 == answer.status.error_code
    eventually(lambda: client.states("other") == {2: "LOADING", 1: "AVAILABLE"}, "2 is in its load")
    assert 1 == client.predict(predict("other")).model_spec.version.value
    release.touch()
    eventually(lambda: client.states("other") == {2: "AVAILABLE", 1: "AVAILABLE"}, "2 serves as well")


def test_1_6_a_model_that_does_not_load_fails_the_call(client: Client, models: Path) -> None:
    """UNKNOWN, with the reason; the others are served."""
    code, text = status_of(lambda: _reload(client, _entry(models, "tiny"), _entry(models, "broken")))

    assert grpc.StatusCode.UNKNOWN is code
    assert text.startswith("1 model(s) did not become available: {{{name: broken version: 1} due to error: NOT_FOUND")
    assert client.predict(predict()).outputs


def test_1_6_no_configuration(client: Client) -> None:
    """An empty request is not taken for "serve nothing"."""
    no_config = model_management_pb2.ReloadConfigRequest()
    assert (INVALID, UNSUPPORTED) == status_of(lambda: client.models.HandleReloadConfigRequest(no_config, timeout=10))


@pytest.mark.parametrize(
    ("entries", "text"),
    [
        (
            ['name: "a" base_path: "/a" model_platform: "tensorflow"'] * 2,
            "Illegal to list model a multiple times in config list",
        ),
        (
            ['name: "a" base_path: "a" model_platform: "tensorflow"'],
            "Expected model a to have an absolute path or URI; got base_path()=a",
        ),
        (['name: "a" base_path: "/a"'], NO_PLATFORM),
        (['name: "a" base_path: "/a" model_platform: "torch"'], "Model a requests unsupported platform torch"),
        (['name: "tiny" base_path: "/a" model_platform: "torch"'], PLATFORM_CHANGED),
    ],
)
def test_1_6_configurations_that_cannot_be_meant(client: Client, models: Path, entries: list[str], text: str) -> None:
    """Each has its text, and leaves everything as it was."""
    _reload(client, _entry(models, "tiny"))

    assert (INVALID, text) == status_of(lambda: _reload(client, *entries))

    assert client.predict(predict()).outputs


@pytest.mark.parametrize(
    "path", ["/etc", "{models}/../{name}-elsewhere", "{models}/link", "{models}", "//etc", "{models}/a\0"]
)
def test_a_request_loads_nothing_from_outside_the_models_directory(client: Client, models: Path, path: str) -> None:
    """Links are resolved; a refused request changes nothing. The real server loads any directory that it can read."""
    elsewhere = models.parent / f"{models.name}-elsewhere"
    if not elsewhere.exists():
        write_tiny(elsewhere / "1")
        (models / "link").symlink_to(elsewhere)
    _reload(client, _entry(models, "tiny"))
    taken = f'name: "taken" base_path: "{path.format(models=models, name=models.name)}" model_platform: "tensorflow"'

    code, text = status_of(lambda: _reload(client, _entry(models, "tiny"), taken.replace("\0", "\\000")))

    assert INVALID is code
    assert text.startswith(
        f"Expected model taken to be below {models}, the --models_dir, links resolved; got base_path"
    )
    assert ({}, "AVAILABLE") == (client.states("taken"), client.states("tiny")[2])


def test_a_version_that_leads_out_of_the_models_directory_is_not_loaded(client: Client, models: Path) -> None:
    """Nor one that a link has become since."""
    elsewhere = models.parent / f"{models.name}-version" / "2"
    write_tiny(elsewhere)
    write_tiny(models / "linked" / "1")
    (models / "linked" / "2").symlink_to(elsewhere)

    _reload(client, _entry(models, "linked", "model_version_policy { all {} }"))

    assert {1: "AVAILABLE"} == client.states("linked")
