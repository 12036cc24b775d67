"""Send images to a gateway, several at a time, so that their vectors are cached."""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

_SECONDS = 60.0
_Refusal = tuple[Path, str]


def warm(  # noqa: PLR0913, the options of one command
    gateway: str,
    paths: Iterable[Path],
    *,
    model: str | None,
    outputs: Sequence[str],
    api_key: str | None,
    parallel: int,
) -> tuple[int, list[_Refusal]]:
    """Embed all images once.

    Args:
        gateway: its address, `http://…` or `https://…`.
        paths: image files, and directories with image files at any depth.
        model: its name; None for the gateway's default.
        outputs: names of its outputs; none means its default output.
        api_key: sent along if there is one.
        parallel: requests at a time.

    Returns:
        How many were sent, and which of them were refused and why.
    """
    query = urlencode([*([("model", model)] if model else []), *(("output", name) for name in outputs)])
    headers = {"Content-Type": "application/octet-stream"}
    if api_key:
        headers["Authorization"] = f"Bearer {api_key}"
    if not gateway.startswith(("http://", "https://")):
        raise ValueError(f"Expected an address that begins with http:// or https://, received {gateway!r}.")

    def send(path: Path) -> _Refusal | None:
        request = Request(f"{gateway.rstrip('/')}/embed?{query}", path.read_bytes(), headers)  # noqa: S310, see above
        try:
            with urlopen(request, timeout=_SECONDS) as answer:  # noqa: S310
                answer.read()
        except HTTPError as error:
            return path, _detail(error)
        except (URLError, OSError) as error:
            return path, f"the gateway cannot be reached: {error}"
        return None

    files = list(_files(paths))
    with ThreadPoolExecutor(parallel) as pool:
        return len(files), [refusal for refusal in pool.map(send, files) if refusal]


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            for directory, _, names in os.walk(path):
                yield from (Path(directory, name) for name in sorted(names) if not name.startswith("."))
        else:
            yield path


def _detail(error: HTTPError) -> str:
    try:
        return f"{error.code}: {json.load(error)['detail']}"
    except (ValueError, KeyError, TypeError):
        return f"{error.code} {error.reason}"
