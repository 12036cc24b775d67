"""An address that a request names, taken apart and checked against the hosts that are allowed."""

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from service.errors import UrlNotAllowed

_PORTS = {"http": 80, "https": 443}
_LONGEST = 2048


@dataclass(frozen=True, slots=True)
class Target:
    """Where to connect, and what to ask for there."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """The Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"


def target(url: str, allowed: Sequence[str], ports: frozenset[int]) -> Target:
    """Take an address apart.

    Args:
        url: http or https, without user and password.
        allowed: names of hosts; `*.example.com` stands for all below it, not for itself.
        ports: that may be connected to.

    Raises:
        UrlNotAllowed: anything else, or a host or port that is not allowed.
    """
    # Control characters and spaces are where parsers disagree.
    if len(url) > _LONGEST or not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        raise UrlNotAllowed("Expected an http or https address of at most 2048 printable ASCII characters.")
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").rstrip("."), parts.port
    except ValueError:
        raise UrlNotAllowed("Expected an http or https address; received one that cannot be taken apart.") from None
    if parts.scheme not in _PORTS or not host or parts.username is not None or parts.password is not None:
        raise UrlNotAllowed("Expected an http or https address with a host and without user and password.")
    port = _PORTS[parts.scheme] if port is None else port
    if not any(_matches(host, pattern.lower()) for pattern in allowed):
        raise UrlNotAllowed(f"Images are not fetched from {host[:80]!r}. Ask the operator, or send the image itself.")
    if port not in ports:
        raise UrlNotAllowed(f"Expected one of the ports {', '.join(map(str, sorted(ports)))}; received {port}.")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(parts.scheme, host, port, path)


def _matches(host: str, pattern: str) -> bool:
    return host.endswith(pattern[1:]) if pattern.startswith("*.") else host == pattern
