"""`microtome cache`: see, fill and clear what Redis or Valkey keeps of one model.

A model's entries are found by its fingerprint with SCAN, a thousand keys at a time, and removed with UNLINK, so that a
Redis in use is not blocked. Other keys in that Redis are never touched.
"""

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

if TYPE_CHECKING:
    from redis import Redis, RedisCluster

_AT_ONCE = 1000
_DESCRIPTION = "See, fill and clear what Redis or Valkey keeps of one model's vectors."
_LOOKUP_SECONDS = 10.0
_REQUEST_SECONDS = 60.0


class CommandError(Exception):
    """The command cannot be done; the message is written for the terminal."""


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(prog="microtome cache", description=_DESCRIPTION)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, run, text in (
        ("stats", _stats, "Count a model's vectors and their bytes, by version."),
        ("clear", _clear, "Remove a model's vectors, of all its versions that are served."),
        ("warm", _warm, "Send images to a gateway, so that their vectors are cached."),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(run=run)
        if run is not _warm:
            _add_redis(command)
    warm = commands.choices["warm"]
    warm.add_argument("--model", help="which model (the gateway's default)")
    warm.add_argument("--output", action="append", help="which of its outputs, repeatable (its default output)")
    warm.add_argument("--gateway", default="http://127.0.0.1:8000", help="where the gateway is (%(default)s)")
    warm.add_argument("--api-key-file", type=Path, help="file with the API key, if the gateway wants one")
    warm.add_argument("--parallel", type=int, default=8, help="requests at a time (%(default)s)")
    warm.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="image files, or directories of them")
    return parser


def _add_redis(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--redis", default=os.environ.get("MICROTOME_REDIS_URL"), help="Redis or Valkey (or MICROTOME_REDIS_URL)"
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--model", help="which model; its fingerprints are asked of the model server")
    which.add_argument("--fingerprint", help="which fingerprint, such as that of a version which is gone: sha256:…")
    parser.add_argument(
        "--model-server",
        default=os.environ.get("MICROTOME_MODEL_SERVER"),
        help="who knows the model (or MICROTOME_MODEL_SERVER)",
    )


def main(argv: Sequence[str]) -> int:
    """Run the command line, whose first word is `cache`, and return its exit code: 1 when it could not be done."""
    options = build_parser().parse_args(argv[1:])
    try:
        _run(options)
    except CommandError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _run(options: argparse.Namespace) -> None:
    if options.run is _warm:
        _warm(options)
        return
    from redis.exceptions import RedisClusterException, RedisError  # noqa: PLC0415, --help shall be instant

    try:
        options.run(options)
    except (RedisError, RedisClusterException, OSError) as error:
        raise CommandError(f"Redis does not answer, or refuses: {type(error).__name__}: {error}"[:300]) from error


def _stats(options: argparse.Namespace) -> None:
    redis = _redis(options)
    for name, fingerprint in _fingerprints(options).items():
        entries = size = 0
        for keys in _keys(redis, fingerprint):
            pipeline = redis.pipeline(transaction=False)
            for key in keys:
                pipeline.strlen(key)
            entries += len(keys)
            size += sum(pipeline.execute())
        sys.stdout.write(f"{name}  {fingerprint}  {entries} vectors  {size} bytes\n")


def _clear(options: argparse.Namespace) -> None:
    redis = _redis(options)
    for name, fingerprint in _fingerprints(options).items():
        removed = sum(int(redis.unlink(*keys)) for keys in _keys(redis, fingerprint))
        sys.stdout.write(f"{name}  {fingerprint}  {removed} vectors removed\n")


def _warm(options: argparse.Namespace) -> None:
    """Embed all images once."""
    gateway = options.gateway.rstrip("/")
    if not gateway.startswith(("http://", "https://")):
        raise CommandError(f"Expected an address that begins with http:// or https://, received {gateway!r}.")
    query = {"output": options.output or [], **({"model": options.model} if options.model else {})}
    url = f"{gateway}/embed?{urlencode(query, doseq=True)}"
    headers = {"Content-Type": "application/octet-stream"}
    if options.api_key_file:
        headers["Authorization"] = f"Bearer {options.api_key_file.read_text().strip()}"

    def refusal(path: Path) -> str | None:
        request = Request(url, path.read_bytes(), headers)  # noqa: S310, see above
        try:
            with urlopen(request, timeout=_REQUEST_SECONDS) as answer:  # noqa: S310
                answer.read()
        except HTTPError as error:
            return _detail(error)
        except OSError as error:
            return f"the gateway cannot be reached: {error}"
        return None

    files = list(_image_files(options.paths))
    with ThreadPoolExecutor(options.parallel) as pool:
        refused = [(path, why) for path, why in zip(files, pool.map(refusal, files), strict=True) if why]
    for path, why in refused:
        sys.stderr.write(f"{path}: {why}\n")
    sys.stdout.write(f"{len(files) - len(refused)} of {len(files)} images are cached\n")
    if len(files) == len(refused):
        raise CommandError("No image was cached.")


def _redis(options: argparse.Namespace) -> "Redis | RedisCluster":
    from service.cache.redis.client import connect  # noqa: PLC0415, --help shall be instant

    if not options.redis:
        raise CommandError("Expected --redis or MICROTOME_REDIS_URL, such as redis://localhost:6379.")
    try:
        return connect(options.redis, seconds=_LOOKUP_SECONDS)
    except ValueError as error:
        raise CommandError(f"The address of Redis is wrong: {error}.") from error


def _keys(redis: "Redis | RedisCluster", fingerprint: str) -> Iterator[list[bytes]]:
    """Find a fingerprint's keys, some at a time; see `core/cache_keys.py`."""
    from service.core.cache_keys import vector_key  # noqa: PLC0415, --help shall be instant

    prefix = vector_key(fingerprint, "", "").removesuffix(":")
    found = redis.scan_iter(match=f"{prefix}*", count=_AT_ONCE)
    while keys := list(islice(found, _AT_ONCE)):
        yield keys


def _fingerprints(options: argparse.Namespace) -> dict[str, str]:
    """Return fingerprints by a name for them."""
    if options.fingerprint:
        # What follows ~ is an accepted deviation from golden vectors.
        digits = options.fingerprint.removeprefix("sha256:").partition("~")[0]
        if len(digits) != 64 or set(digits) - set("0123456789abcdef"):
            raise CommandError("Expected a fingerprint of sha256: and 64 hexadecimal digits.")
        return {"fingerprint": options.fingerprint}
    if not options.model_server:
        raise CommandError("Expected --model-server or MICROTOME_MODEL_SERVER, to ask for the model's fingerprint.")
    return asyncio.run(_ask(options.model, options.model_server.split(",")))


async def _ask(model: str, addresses: Sequence[str]) -> dict[str, str]:
    # --help shall be instant.
    from microtome.errors import ServiceError  # noqa: PLC0415
    from service.model_server.replicas import Replicas  # noqa: PLC0415

    servers = Replicas(addresses)
    try:
        states = await servers.versions(model, timeout=_LOOKUP_SECONDS)
        return {
            f"{model} version {version}": (await servers.manifest(model, version, timeout=_LOOKUP_SECONDS)).fingerprint
            for version in sorted(states, reverse=True)
            if states[version] == "available"
        }
    except ServiceError as error:
        raise CommandError(f"The model server does not tell about {model!r}: {error}") from error
    finally:
        await servers.close()


def _image_files(paths: Iterable[Path]) -> Iterator[Path]:
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
