"""Configuration files beside the models': TLS, and the models' file read again and again (sections 1.6, 2 and 5)."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.contract.tfserving.server_process import Client, ServerProcess, eventually, free_port
from tests.contract.tfserving.tiny_models import write_tiny

Start = Callable[..., ServerProcess]


def _config(path: Path, *models: str, **places: str) -> None:
    """Write a configuration at once, as an editor that renames does; `places` are directories of other models."""
    entries = "".join(
        f'config {{ name: "{name}" base_path: "{path.parent / place}" model_platform: "tensorflow" }}'
        for name, place in {**dict.fromkeys(models, "tiny"), **places}.items()
    )
    path.with_suffix(".new").write_text(f"model_config_list {{ {entries} }}")
    path.with_suffix(".new").rename(path)


def test_2_the_models_file_is_read_again(start: Start, tmp_path: Path) -> None:
    """Models come and go with it; one that is broken changes nothing and is complained of."""
    write_tiny(tmp_path / "tiny" / "1")
    config = tmp_path / "models.config"
    _config(config, "a")
    server = start(f"--model_config_file={config}", "--model_config_file_poll_wait_seconds=0.05")

    with Client(server.ready().address) as client:
        _config(config, "a", "b")
        eventually(lambda: client.states("b") == {1: "AVAILABLE"}, "b has come")

        config.write_text("model_config_list {")
        eventually(lambda: "Failed to read ModelServerConfig file" in server.log, "complaint")
        assert ({1: "AVAILABLE"}, {1: "AVAILABLE"}) == (client.states("a"), client.states("b"))

        _config(config, "b")
        eventually(lambda: client.states("a") == {1: "END"}, "a is gone")
        assert {1: "AVAILABLE"} == client.states("b")


def test_2_a_model_without_a_version_blocks_no_later_configuration(start: Start, tmp_path: Path) -> None:
    """At the start the port stays closed for it, and while it runs the next file is read; unlike in the real server."""
    write_tiny(tmp_path / "tiny" / "1")
    (tmp_path / "ghost").mkdir()
    config = tmp_path / "models.config"
    _config(config, "a", ghost="ghost")
    server = start(f"--model_config_file={config}", "--model_config_file_poll_wait_seconds=0.05")
    eventually(lambda: "No versions of servable ghost" in server.log, "it is waited for", 60)
    assert not server.socket.exists()
    _config(config, "a")
    with Client(server.ready().address) as client:
        assert {1: "AVAILABLE"} == client.states("a")
        _config(config, "a", ghost="ghost", none="nowhere")
        eventually(lambda: "Could not find base path for servable none" in server.log, "these are waited for")
        _config(config, "a", "b", ghost="ghost", none="nowhere")
        eventually(lambda: client.states("b") == {1: "AVAILABLE"}, "b has come all the same")
        write_tiny(tmp_path / "ghost" / "1")
        eventually(lambda: client.states("ghost") == {1: "AVAILABLE"}, "and so has the one that was waited for")


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Make a key and a certificate for localhost that is its own authority."""
    if not (openssl := shutil.which("openssl")):
        pytest.skip("openssl, which makes the certificate, is not installed")
    directory = tmp_path_factory.mktemp("pem")
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-days", "2",
         "-keyout", "key.pem", "-out", "cert.pem"],
        cwd=directory, check=True, capture_output=True,
    )  # fmt: skip
    return {name: (directory / f"{name}.pem").read_text() for name in ("key", "cert")}


def _health(address: str, credentials: grpc.ChannelCredentials) -> int:
    with grpc.secure_channel(address, credentials) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        status: int = stub.Check(health_pb2.HealthCheckRequest(), timeout=10).status
        return status


def test_5_ssl_config_file_asks_both_sides_for_certificates(
    start: Start, tiny_config: Path, tmp_path: Path, pem: dict[str, str]
) -> None:
    """With ``client_verify``, only a client that the custom CA vouches for is answered."""
    key, cert = (pem[name].replace("\n", "\\n") for name in ("key", "cert"))
    ssl_config = tmp_path / "ssl.config"
    ssl_config.write_text(f'server_key: "{key}"\nserver_cert: "{cert}"\ncustom_ca: "{cert}"\nclient_verify: true\n')
    port = free_port()
    start(
        f"--model_base_path={tiny_config.parent / 'tiny'}", "--enable_grpc_healthcheck_service",
        f"--ssl_config_file={ssl_config}", port=port,
    ).ready()  # fmt: skip
    authority, own_key = pem["cert"].encode(), pem["key"].encode()

    known = grpc.ssl_channel_credentials(authority, own_key, authority)
    assert health_pb2.HealthCheckResponse.SERVING == _health(f"localhost:{port}", known)
    with pytest.raises(grpc.RpcError) as refused:
        _health(f"localhost:{port}", grpc.ssl_channel_credentials(authority))

    assert grpc.StatusCode.UNAVAILABLE is refused.value.code()


@pytest.mark.parametrize(
    ("flag", "text", "complaint"),
    [
        ("ssl_config_file", "server_key: ", "INVALID_ARGUMENT: Invalid protobuf file: "),
        ("ssl_config_file", 'server_key: "k"', "INVALID_ARGUMENT: Expected server_key and server_cert"),
        (
            "ssl_config_file",
            'server_key: "k" server_cert: "c" client_verify: true',
            "INVALID_ARGUMENT: Expected custom_ca",
        ),
        ("monitoring_config_file", "enable: true", "INVALID_ARGUMENT: Invalid protobuf file: "),
    ],
)
def test_5_a_wrong_file_fails_the_start(start: Start, tmp_path: Path, flag: str, text: str, complaint: str) -> None:
    """Before TensorFlow is imported, and not by a crash as there."""
    (tmp_path / "file").write_text(text)

    server = start(f"--model_base_path={tmp_path}", f"--{flag}={tmp_path / 'file'}")

    assert 2 == server.exit_status()
    assert f"Failed to start server. Error: {complaint}" in server.log
