"""The health checks of the images, which contain Python and no curl.

    healthcheck.py http /readyz     the gateway answers this path with 200
    healthcheck.py tcp 8500         something listens on this port

Exits with 0 if so, otherwise with 1 and one line with the reason.
"""

import http.client
import os
import socket
import sys

TIMEOUT = 2.0
"""Seconds; less than the health check's own limit, so that this program can report the reason."""


def operations_port() -> int:
    """Return the port of the probes: the operations port if set, otherwise the gateway's."""
    return int(os.environ.get("MICROTOME_OPERATIONS_PORT") or os.environ.get("MICROTOME_PORT") or "8000")


def check_http(path: str) -> str | None:
    """Return the error in the gateway's answer on a path, or None."""
    connection = http.client.HTTPConnection("localhost", operations_port(), timeout=TIMEOUT)
    try:
        connection.request("GET", path)
        status = connection.getresponse().status
    finally:
        connection.close()
    return None if status == http.HTTPStatus.OK else f"expected 200 on {path}, received {status}"


def check_tcp(port: str) -> str | None:
    """Connect to a port of this machine; return None, or raise OSError."""
    socket.create_connection(("localhost", int(port)), timeout=TIMEOUT).close()
    return None


def main(argv: list[str]) -> int:
    """Run the check that the arguments name and return the exit code."""
    try:
        match argv:
            case ["http", path]:
                trouble = check_http(path)
            case ["tcp", port]:
                trouble = check_tcp(port)
            case _:
                sys.stderr.write(f"Expected: http PATH or tcp PORT. Received: {' '.join(argv)}\n")
                return 2
    except (OSError, http.client.HTTPException) as error:
        trouble = f"{' '.join(argv)}: {error}"
    if trouble:
        sys.stderr.write(f"{trouble}\n")
    return 1 if trouble else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
