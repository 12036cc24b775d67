"""`microtome doctor`: the command line, one line for each check, and what answers over the network."""

import argparse
import asyncio
import importlib
import json
import os
import queue
import shutil
import sys
import textwrap
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from microtome.commands.doctor import here
from microtome.commands.doctor.here import Finding, proved
from microtome.commands.up.command import ENGINES
from microtome.commands.verify import check_version, expanded
from microtome.errors import shown

_SECONDS = 5.0
_SCRATCH = "mt1:doctor"
"""A key of the cache's own prefix, which rights may be limited to. It is gone after a second."""

_DESCRIPTION = """\
Check what microtome up and a gateway need, by the same options and MICROTOME_* variables: versions, settings, memory
and cores, folders, ports; the recipe, exported models and their golden vectors, computed by the engine that would serve
them, or model servers by each address behind their names; Redis, its memory and the commands that it refuses; and the
gateway, if one runs. One line for each with what to do. Ends with 1 when something has failed."""

_NO_SERVER = "Is it running, and may this machine connect (port, network policy)? Frozen: restart it."
_COLOURS = {"ok": "32", "warning": "33", "failed": "31"}

Check = tuple[str, float, Callable[[], Iterator[Finding]]]
"""What is checked, for how many seconds at most, and how."""


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    environment = os.environ
    parser = argparse.ArgumentParser(
        prog="microtome doctor", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--recipe", type=Path, help="as of microtome up (recipe.yaml, or the one that is installed)")
    add("--models-dir", type=Path, default=Path("models"), help="where exported models are (models)")
    add("--engine", choices=ENGINES, default="auto", help="as of microtome up (%(default)s)")
    add("--no-golden", action="store_true", help="compute no golden vectors here, which takes some ten seconds")
    add("--host", default=environment.get("MICROTOME_HOST", "127.0.0.1"), help="of the gateway (or MICROTOME_HOST)")
    add("--port", default=environment.get("MICROTOME_PORT", "8000"), help="of the gateway (8000, or MICROTOME_PORT)")
    add("--grpc-port", default=environment.get("MICROTOME_GRPC_PORT"), help="for gRPC (or MICROTOME_GRPC_PORT)")
    add(
        "--server",
        "--model-server",
        action="append",
        metavar="ADDRESS",
        help="a model server, repeatable (or MICROTOME_MODEL_SERVER); then nothing is exported or computed here",
    )
    add("--model", action="append", metavar="NAME", help="a model or a pattern, repeatable (MICROTOME_MODELS)")
    add("--redis", metavar="URL", help="Redis or Valkey (MICROTOME_REDIS_URL)")
    add("--gateway", action="append", metavar="URL", help="a gateway that has to answer, repeatable")
    add("--json", action="store_true", help="JSON, for programs")
    return parser


def main(argv: Sequence[str]) -> int:
    """Run `microtome doctor …` and return its exit code."""
    options = build_parser().parse_args(list(argv[1:]))
    importlib.import_module("service")  # without the server's wheel there is nothing to check
    found: list[Finding] = []
    for about, seconds, check in _checks(options, os.environ):
        for finding in _within(seconds, about, check):
            found.append(finding)
            if not options.json:
                print(_line(finding), flush=True)  # noqa: T201, a command
    if options.json:
        print(json.dumps([finding._asdict() for finding in found], indent=1))  # noqa: T201
    else:
        counts = {state: sum(finding.state == state for finding in found) for state in _COLOURS}
        print(", ".join(f"{count} {state}" for state, count in counts.items() if count))  # noqa: T201
    return int(any(finding.state == "failed" for finding in found))


def _checks(options: argparse.Namespace, environment: Mapping[str, str]) -> Iterator[Check]:
    """Yield the checks of this set-up, the quick ones first."""
    addresses = options.server or _listed(environment.get("MICROTOME_MODEL_SERVER", ""))
    names = options.model or _listed(environment.get("MICROTOME_MODELS", ""))
    redis = options.redis or environment.get("MICROTOME_REDIS_URL")
    embedded, own = not addresses, _own_address(options.host, options.port)
    yield "versions", 30, partial(here.packages, options, embedded=embedded)
    yield "settings", 10, partial(_settings, options, addresses, names)
    yield "memory", 5, partial(here.resources, embedded=embedded)
    if embedded:
        yield "folders", 10, partial(here.folders, options)
    # Asked once: what answers there decides whether a port that is taken is in order.
    answers = list(_within(15, "gateway", partial(_gateway, own)))
    running = not any("cannot be reached" in one.said or "is no gateway" in one.said for one in answers)
    yield "ports", 10, partial(here.ports, options, environment, running=running)
    if redis:
        yield "Redis", 30, partial(_redis, redis)
    if embedded:
        yield "models", 60, partial(here.models, options)
        if not options.no_golden:
            yield "golden vectors", here.GOLDEN_SECONDS + 10, partial(here.golden, options)
    else:
        yield "model servers", 300, partial(_all_servers, addresses, names)
    if running and not options.gateway:
        yield "gateway", 5, partial(iter, answers)
    for url in options.gateway or ():
        yield "gateway", 15, partial(_gateway, url.rstrip("/"))


def _within(seconds: float, about: str, check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """Yield what a check finds; one that does not end in time, or with an error, is a finding too."""
    found: queue.Queue[Finding | None] = queue.Queue()

    def run() -> None:
        try:
            for finding in check():
                found.put(finding)
        except Exception as error:  # noqa: BLE001, no traceback for what is broken in a way not foreseen
            said = f"cannot be checked: {type(error).__name__}: {error}."
            found.put(Finding("failed", about, said, "If this is no fault of the machine, please report it."))
        finally:
            found.put(None)

    # A daemon, so that one that hangs does not keep the process.
    threading.Thread(target=run, daemon=True).start()
    end = time.monotonic() + seconds
    while True:
        try:
            finding = found.get(timeout=max(0.0, end - time.monotonic()))
        except queue.Empty:
            yield Finding("failed", about, f"no answer within {seconds:.0f} s.", "Is the machine or its network stuck?")
            return
        if finding is None:
            return
        yield finding


def _line(finding: Finding) -> str:
    """Return a line, which a terminal gets in colour and broken between words."""
    end = f" {finding.advice}" if finding.advice else ""
    text = shown(f"{finding.about}: {finding.said}{end}")
    state = f"{finding.state:8}"
    if not sys.stdout.isatty():
        return f"{state} {text}"
    width = max(30, shutil.get_terminal_size().columns - 1)
    body = textwrap.fill(text, width, initial_indent=" " * 9, subsequent_indent=" " * 9, break_on_hyphens=False)
    plain = "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb"
    coloured = state if plain else f"\x1b[{_COLOURS[finding.state]}m{state}\x1b[0m"
    return f"{coloured} {body[9:]}"


def _listed(value: str) -> list[str]:
    return [entry.strip() for entry in value.split(",") if entry.strip()]


def _own_address(host: str, port: str) -> str:
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    return f"http://{host}:{port}"


def _settings(options: argparse.Namespace, addresses: Sequence[str], names: Sequence[str]) -> Iterator[Finding]:
    """Read the settings as a gateway does, with what microtome up would add."""
    from microtome.commands.up.errors import CannotStart  # noqa: PLC0415, so that --help is instant
    from microtome.commands.up.plan import admission  # noqa: PLC0415
    from service.settings import SettingsError, read_settings  # noqa: PLC0415

    alone = "MICROTOME_MODEL_SERVER" in os.environ
    added = {"MICROTOME_HOST": options.host, "MICROTOME_PORT": options.port}
    added |= {"MICROTOME_GRPC_PORT": options.grpc_port} if options.grpc_port else {}
    added |= {"MICROTOME_REDIS_URL": options.redis} if options.redis else {}
    try:
        if not alone:
            added |= {"MICROTOME_MODEL_SERVER": ",".join(addresses) or "unix:/models.sock"}
            added |= {"MICROTOME_MODELS": ",".join(names) or "*", **admission(options.host)}
        before = dict(os.environ)
        os.environ.update(added)
        try:
            read_settings()
        finally:
            os.environ.clear()
            os.environ.update(before)
    except CannotStart as error:
        yield Finding("failed", "settings", str(error))
    except SettingsError as error:
        for line in str(error).splitlines():
            yield Finding(
                "failed",
                "settings",
                line if line.endswith((".", "?")) else f"{line}.",
                "See docs/reference/settings.md.",
            )
    else:
        yield Finding("ok", "settings", "a gateway starts with them")


def _all_servers(addresses: Sequence[str], names: Sequence[str]) -> Iterator[Finding]:
    """Check the model servers; what is found is yielded at the end."""

    async def ask() -> list[Finding]:
        return [finding async for finding in _servers(addresses, names)]

    yield from asyncio.run(ask())


async def _servers(addresses: Sequence[str], models: Sequence[str]) -> AsyncIterator[Finding]:
    """Check every model on every server."""
    from service.model_server.client import ModelServerClient  # noqa: PLC0415, as above
    from service.model_server.names import Name, Place, looked_up, understood  # noqa: PLC0415

    if not addresses:
        yield Finding("warning", "model servers", "none is named.", "Set MICROTOME_MODEL_SERVER or --server.")
    places: list[Place] = []
    for address in addresses:
        known = understood(address)
        if isinstance(known, Place):
            places.append(known)
            continue
        assert isinstance(known, Name)  # noqa: S101, for mypy
        try:
            four, six = known.places(await looked_up(known.host, known.port, known.dns_server))
        except OSError as error:
            advice = "Is the name right, and does its Service (headless) have a pod? Is this machine in that network?"
            yield Finding("failed", address, f"cannot be looked up: {error}.", advice)
            continue
        places += four or six
        yield Finding("ok", address, f"stands for {len(four or six)} model servers")
    clients = {place.target: ModelServerClient(place) for place in places}
    try:
        names, trouble = await expanded(models or ["*"], list(clients.values()))
        if trouble:
            async for finding in _unlisted(clients, trouble):
                yield finding
        versions: dict[str, dict[str, list[int]]] = {}
        for target, client in clients.items():
            async for finding in _models(target, client, names, versions):
                yield finding
        for model, by_server in versions.items():
            if len(set(map(tuple, by_server.values()))) > 1:
                said = "; ".join(f"{target} has {has or 'none'}" for target, has in by_server.items())
                advice = "Usual while a version is published; else see the log of the server that lacks one."
                yield Finding("warning", model, f"versions differ: {said}.", advice)
    finally:
        for client in clients.values():
            await client.close()


async def _unlisted(clients: Mapping[str, Any], trouble: str) -> AsyncIterator[Finding]:
    """Say which servers do not answer; if all do, why patterns of models stand for none."""
    from microtome.errors import ServiceError, TemporarilyUnable  # noqa: PLC0415, as above

    answer = len(clients) > 0
    for target, client in clients.items():
        try:
            await client.listed(timeout=_SECONDS)
        except TemporarilyUnable as error:
            answer = False
            yield Finding("failed", target, str(error), _NO_SERVER)
        except ServiceError:
            # TensorFlow Serving answers, and lists nothing.
            continue
    if answer:
        yield Finding("warning", "models", trouble, "Set MICROTOME_MODELS_CONFIG, or name them with --model.")


async def _models(
    target: str,
    client: Any,  # noqa: ANN401, a ModelServerClient, imported late
    models: Sequence[str],
    versions: dict[str, dict[str, list[int]]],
) -> AsyncIterator[Finding]:
    """Check every model on one server, and note its versions."""
    from microtome.errors import ModelNotReady, ServiceError  # noqa: PLC0415, as above

    for model in models:
        about = f"{target} {model}"
        try:
            states = await client.versions(model, timeout=_SECONDS)
        except ModelNotReady:
            advice = "Is its name in models.config, and its directory, with a version, at base_path?"
            yield Finding("failed", about, "the server has no such model.", advice)
            continue
        except ServiceError as error:
            yield Finding("failed", target, str(error), _NO_SERVER)
            return
        has = [version for version, state in sorted(states.items()) if state == "available"]
        versions.setdefault(model, {})[target] = has
        if not has:
            told = ", ".join(f"{version} is {state}" for version, state in sorted(states.items())) or "none is known"
            yield Finding("failed", about, f"no version is available: {told}.", "The server's log has the reason.")
        for version in has:
            try:
                yield proved(
                    f"{about} version {version}", await check_version(client, target, model, version), "that server"
                )
            except ServiceError as error:
                yield Finding(
                    "failed", f"{about} version {version}", str(error), "Was Microtome's exporter its author?"
                )


def _redis(url: str) -> Iterator[Finding]:
    """Send each command that the cache needs, and look at version and memory."""
    from redis import RedisCluster  # noqa: PLC0415, as above
    from redis.exceptions import AuthenticationError, RedisClusterException, RedisError, ResponseError  # noqa: PLC0415

    from service.cache.redis.client import connect  # noqa: PLC0415

    # Without password and options.
    about = f"{url.partition('://')[0]}://{url.partition('://')[2].rpartition('@')[2].partition('?')[0]}"
    lost = {
        "SET": "no vectors are kept",
        "GET": "no vectors are found",
        "MGET": "no vectors are found",
        "SET NX": "gateways may compute the same vector twice",
    }
    commands: dict[str, tuple[str | int, ...]] = {
        "SET": ("SET", _SCRATCH, "1", "PX", 1000),
        "GET": ("GET", _SCRATCH),
        "MGET": ("MGET", _SCRATCH),
        "SET NX": ("SET", f"{_SCRATCH}:claim", "1", "NX", "PX", 1000),
    }
    refused = False
    try:
        client = connect(url, seconds=_SECONDS)
        if isinstance(client, RedisCluster):
            # A cluster is asked by GET, since the keys of a request lie on several nodes.
            del commands["MGET"]
        for name, command in commands.items():
            try:
                client.execute_command(*command)  # type: ignore[no-untyped-call]
            except ResponseError as error:
                refused = True
                state: Literal["warning", "failed"] = "warning" if name == "SET NX" else "failed"
                advice = f"Let its user send {name.split()[0]} for keys that begin with mt1, and give it memory."
                yield Finding(state, about, f"{name} is refused ({error}): {lost[name]}.", advice)
        if not refused:
            yield _redis_memory(client, about)
    except ValueError as error:
        yield Finding("failed", "MICROTOME_REDIS_URL", f"{error}.", "See docs/reference/settings.md.")
    except AuthenticationError as error:
        advice = "Put the right user and password into MICROTOME_REDIS_URL. Until then gateways compute every image."
        yield Finding("failed", about, f"does not let us in: {str(error).rstrip('.')}.", advice)
    except (RedisError, RedisClusterException, OSError) as error:
        advice = "Is it running, and may this machine connect? Gateways work without it and compute every image."
        yield Finding("failed", about, f"does not answer: {str(error).rstrip('.')}.", advice)


def _redis_memory(client: Any, about: str) -> Finding:  # noqa: ANN401, redis-py's, imported late
    """Say which version it is, and what it does when its memory is full."""
    from redis.exceptions import ResponseError  # noqa: PLC0415, as above

    works = "does all that the cache needs"
    try:
        info = client.info()
    except ResponseError:
        return Finding("ok", about, f"{works}; INFO is refused, so its memory is not known")
    if "redis_version" not in info:
        info = next(iter(info.values()))  # a cluster's, by node
    server = f"Valkey {info['valkey_version']}" if "valkey_version" in info else f"Redis {info['redis_version']}"
    limit, policy = int(info.get("maxmemory", 0)), info.get("maxmemory_policy", "unknown")
    if not limit:
        said = f"{server} {works}, and may take all memory of its machine (maxmemory 0)."
        return Finding("warning", about, said, "Set maxmemory, and maxmemory-policy allkeys-lru.")
    said = f"{server} {works}; at most {limit >> 20} MiB, then {policy}"
    if policy == "noeviction":
        return Finding(
            "warning", about, f"{said}: it refuses new vectors when full.", "Set maxmemory-policy allkeys-lru."
        )
    return Finding("ok", about, said)


def _gateway(url: str) -> Iterator[Finding]:
    """Ask a gateway whether it is ready."""
    try:
        with urlopen(Request(f"{url}/readyz"), timeout=_SECONDS) as answer:  # noqa: S310, as the operator says
            document = json.load(answer)
    except HTTPError as error:
        try:
            document = json.load(error)
        except ValueError:
            document = None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        advice = "Start it, or name another one with --gateway; its log says why it ended."
        yield Finding("failed", f"gateway {url}", f"cannot be reached: {reason}.", advice)
        return
    if not isinstance(document, dict) or not isinstance(document.get("models"), dict):
        yield Finding("failed", f"gateway {url}", "what answers there is no gateway.", "Name it with --gateway.")
        return
    for model, trouble in document["models"].items():
        if trouble:
            yield Finding("failed", f"gateway {url} {model}", str(trouble), "See docs/runbooks/model-not-ready.md.")
    for name, trouble in document.get("dependencies", {}).items():
        if trouble:
            yield Finding("warning", f"gateway {url} {name}", str(trouble), f"See the lines on {name} above.")
    serves = [model for model, trouble in document["models"].items() if not trouble]
    if document.get("ready"):
        yield Finding("ok", f"gateway {url}", f"ready; serves {', '.join(serves) or 'what is cached'}")
    else:
        yield Finding("failed", f"gateway {url}", "not ready: no model and no cache can answer, or a required one.")
