"""The health checks of the images, which contain Python and no curl.

    healthcheck.py http /readyz     the gateway answers this path with 200
    healthcheck.py grpc 8500        what listens on this port says by grpc.health.v1 that it serves

Exits with 0 if so, otherwise with 1 and one line with the reason.
"""

import http.client
import os
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


def check_grpc(port: str) -> str | None:
    """Return what is wrong with the health that a port of this machine reports, or None."""
    # Imported here since the gateway's check needs neither.
    import grpc  # noqa: PLC0415
    from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse  # noqa: PLC0415
    from grpc_health.v1.health_pb2_grpc import HealthStub  # noqa: PLC0415

    with grpc.insecure_channel(f"localhost:{int(port)}", options=(("grpc.enable_http_proxy", 0),)) as channel:
        try:
            status = HealthStub(channel).Check(HealthCheckRequest(), timeout=TIMEOUT).status
        except grpc.RpcError as error:
            return f"grpc {port}: {error.code().name}"
    return None if status == HealthCheckResponse.SERVING else f"expected SERVING on port {port}, received {status}"


def main(argv: list[str]) -> int:
    """Run the check that the arguments name and return the exit code."""
    try:
        match argv:
            case ["http", path]:
                trouble = check_http(path)
            case ["grpc", port]:
                trouble = check_grpc(port)
            case _:
                sys.stderr.write(f"Expected: http PATH or grpc PORT. Received: {' '.join(argv)}\n")
                return 2
    except (OSError, http.client.HTTPException) as error:
        trouble = f"{' '.join(argv)}: {error}"
    if trouble:
        sys.stderr.write(f"{trouble}\n")
    return 1 if trouble else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
