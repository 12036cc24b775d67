"""The text that `microtome up` prints when the service is ready: lines to copy into a shell."""

import os
import shlex
from collections.abc import Mapping
from pathlib import Path

from microtome.commands.up.addresses import Endpoint

EXAMPLE = Path("examples/cat.jpg")
REPOSITORY = Path(__file__).parents[3]


def welcome(gateway: Endpoint, models: tuple[str, ...], seconds: float) -> str:
    """Return the text."""
    return f"""
Microtome serves {", ".join(models)} on {gateway.url} (ready after {seconds:.1f} s). Try

    {curl_line(gateway, example_image(Path.cwd()), os.environ)}

docs      {gateway.url}/docs
metrics   {gateway.url}/metrics
gRPC      {gateway.grpc_target or "none"}
stop      Ctrl-C
"""


def curl_line(gateway: Endpoint, image: Path, environment: Mapping[str, str]) -> str:
    """Return a command that sends `image`, with its path quoted and proxies bypassed."""
    # In -F, curl interprets , and ; unless the path is in double quotes.
    path = f'"{image}"' if set(str(image)) & set(",;") else str(image)
    proxied = any(environment.get(name) for name in ("http_proxy", "all_proxy", "ALL_PROXY"))
    words = ["curl", *(["--noproxy", "*"] if proxied else []), "-F", f"image=@{path}", f"{gateway.url}/embed"]
    return shlex.join(words)


def example_image(here: Path) -> Path:
    """Return a photo to send: the repository's, relative to `here` if it is below; without one, a name to replace."""
    if (here / EXAMPLE).is_file():
        return EXAMPLE
    photo = REPOSITORY / EXAMPLE
    return photo if photo.is_file() else Path("YOUR_PHOTO.jpg")
