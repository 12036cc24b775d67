"""What is printed works as it stands: a shell takes the curl line apart as meant."""

import shlex
import subprocess
from pathlib import Path

from microtome.commands.up.addresses import Endpoint
from microtome.commands.up.supervisor import EXAMPLE, REPOSITORY, curl_line, example_image, welcome

GATEWAY = Endpoint("0.0.0.0", 9000, 9001)


def test_the_real_address_is_printed() -> None:
    """Another port than the default is in every line."""
    text = welcome(GATEWAY, ("lite0",), 3.2, {"MICROTOME_PAGE": "true"})
    for address in ("http://127.0.0.1:9000/embed", "http://127.0.0.1:9000/docs", "http://127.0.0.1:9000/metrics"):
        assert address in text
    assert "gRPC      127.0.0.1:9001\n" in text
    assert "photos    http://127.0.0.1:9000/ in a browser\n" in text
    assert "browser" not in welcome(GATEWAY, ("lite0",), 3.2, {"MICROTOME_PAGE": "false"})
    apart = welcome(GATEWAY, ("lite0",), 3.2, {"MICROTOME_OPERATIONS_PORT": "9002"})
    assert "metrics   http://127.0.0.1:9002/metrics\n" in apart


def test_with_keys_the_line_has_one_in_a_variable() -> None:
    """The shell puts in what was exported one line above; no key of the settings is printed."""
    text = welcome(GATEWAY, ("lite0",), 3.2, {"MICROTOME_API_KEYS": "ann sha256:" + "0" * 64})
    export, curl = (line.strip() for line in text.splitlines() if line.startswith("    "))
    assert export == "export MICROTOME_API_KEY=YOUR_KEY"
    script = f'curl() {{ printf "%s\\n" "$@"; }}; {export}; {curl}'
    said = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout.splitlines()
    assert said == ["-H", "Authorization: Bearer YOUR_KEY", "-F", f"image=@{EXAMPLE}", "http://127.0.0.1:9000/embed"]
    assert "sha256" not in text
    settings = {"MICROTOME_API_KEYS": "ann", "MICROTOME_ALLOW_ANONYMOUS": "true"}
    assert "Bearer" not in welcome(GATEWAY, ("lite0",), 3.2, settings)


def test_the_photo_exists_from_wherever_it_is_started(tmp_path: Path) -> None:
    """Inside the repository the path is short, elsewhere it is whole."""
    assert example_image(REPOSITORY) == EXAMPLE
    assert example_image(tmp_path).is_file()
    assert example_image(tmp_path).is_absolute()


def test_odd_paths_survive_the_shell_and_curl() -> None:
    """Spaces are the shell's, commas and semicolons curl's: both are quoted."""
    line = curl_line(GATEWAY, Path("/my photos/a;b,c.jpg"), {})
    assert shlex.split(line) == ["curl", "-F", 'image=@"/my photos/a;b,c.jpg"', "http://127.0.0.1:9000/embed"]


def test_a_proxy_is_passed_by() -> None:
    """Behind a company's proxy, curl would ask the proxy for our 127.0.0.1."""
    assert "--noproxy '*'" in curl_line(GATEWAY, EXAMPLE, {"http_proxy": "http://proxy:3128"})
    assert "--noproxy" not in curl_line(GATEWAY, EXAMPLE, {})
