"""Ask gateways which version they use, and have them try another one before it is in use."""

import http.client
import io
import json
from collections.abc import Sequence
from urllib.parse import quote, urlsplit

from PIL import Image

from microtome.commands.rollout.errors import CannotBegin
from microtome.commands.rollout.servers import hosts

_SECONDS = 30.0


class Gateway:
    """One gateway, by one of the addresses of its name."""

    def __init__(self, host: str, port: int, name: str, key: str | None) -> None:
        self.address = f"{host}:{port}"
        self._connection = (host, port)
        self._headers = {"Host": name, **({"Authorization": f"Bearer {key}"} if key else {})}

    def version(self, model: str) -> tuple[int | None, str]:
        """Return the version in use and an explanation; the version is None while there is none or it is unknown."""
        status, body = self._ask("GET", f"/models/{quote(model, safe='')}")
        if status != http.client.OK:
            return None, f"{self.address} answered {status}: {_detail(body)}"
        told = json.loads(body)
        return told["version"], told.get("detail") or ""

    def trial(self, model: str, version: int) -> str | None:
        """Embed an image with a version, bypassing the cache; return what went wrong, or None."""
        path = f"/embed?model={quote(model, safe='')}&version={version}&output=all&cache=bypass"
        status, body = self._ask("POST", path, _picture())
        return None if status == http.client.OK else f"{self.address} answered {status}: {_detail(body)}"

    def _ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(*self._connection, timeout=_SECONDS)
        try:
            connection.request(method, path, body, self._headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        except OSError as error:
            return 0, str(error).encode()
        finally:
            connection.close()


def gateways_at(urls: Sequence[str], key: str | None) -> list[Gateway]:
    """Return every gateway behind the URLs; a headless Service's name covers all of its pods.

    Raises:
        CannotBegin: a URL is not http://host[:port], or its name cannot be resolved.
    """
    found: dict[str, Gateway] = {}
    for url in urls:
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname or parts.path not in {"", "/"}:
            raise CannotBegin(f"Expected a gateway as http://host:port, without TLS and path; received {url!r}.")
        port = parts.port or 80
        for host in hosts(parts.hostname, port):
            gateway = Gateway(host, port, parts.netloc, key)
            found.setdefault(gateway.address, gateway)
    return list(found.values())


def _picture() -> bytes:
    out = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").save(out, "PNG")
    return out.getvalue()


def _detail(body: bytes) -> str:
    try:
        return str(json.loads(body)["detail"])
    except (ValueError, KeyError, TypeError):
        return body[:200].decode(errors="replace")
