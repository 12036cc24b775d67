"""What is printed works as it stands: a shell takes the curl line apart as meant."""

import shlex
from pathlib import Path

from microtome.commands.up.addresses import Endpoint
from microtome.commands.up.supervisor import EXAMPLE, REPOSITORY, curl_line, example_image, welcome

GATEWAY = Endpoint("0.0.0.0", 9000, 9001)


def test_the_real_address_is_printed() -> None:
    """Another port than the default is in every line."""
    text = welcome(GATEWAY, ("lite0",), 3.2)
    for address in ("http://127.0.0.1:9000/embed", "http://127.0.0.1:9000/docs", "http://127.0.0.1:9000/metrics"):
        assert address in text
    assert "gRPC      127.0.0.1:9001\n" in text
    assert "photos    http://127.0.0.1:9000/ in a browser\n" in text
    assert "browser" not in welcome(GATEWAY, ("lite0",), 3.2, page=False)


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
