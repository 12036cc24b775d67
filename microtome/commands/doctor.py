"""`microtome doctor`: is what a gateway needs there, and does it work? One line each, with what to do."""

import argparse
import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from microtome.commands.verify import check_version, expanded

_SECONDS = 5.0
_SCRATCH = "mt1:doctor"
"""A key of the cache's own prefix, which rights may be limited to. It is gone after a second."""

_DESCRIPTION = """\
Check what a gateway works with, as its MICROTOME_* variables name it: the settings, each model server behind each
address, every version there by its golden vectors, Redis and the commands that it refuses, and the gateway itself. One
line for each with what to do. Ends with 1 when something has FAILED."""


class Finding(NamedTuple):
    """One line.

    Attributes:
        state: `ok`, `note` for what works with less, or `FAILED`.
        about: what was checked.
        said: what was found.
        advice: what to do.
    """

    state: Literal["ok", "note", "FAILED"]
    about: str
    said: str
    advice: str = ""


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(
        prog="microtome doctor", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--server", action="append", metavar="ADDRESS", help="a model server, repeatable (MICROTOME_MODEL_SERVER)")
    add("--model", action="append", metavar="NAME", help="a model or a pattern, repeatable (MICROTOME_MODELS)")
    add("--redis", metavar="URL", help="Redis or Valkey (MICROTOME_REDIS_URL)")
    add("--gateway", action="append", metavar="URL", help="a gateway, repeatable (MICROTOME_HOST and MICROTOME_PORT)")
    add("--json", action="store_true", help="JSON, for programs")
    return parser


def main(argv: Sequence[str]) -> int:
    """Run `microtome doctor …` and return its exit code."""
    options, environment = build_parser().parse_args(list(argv[1:])), os.environ
    addresses = options.server or _listed(environment.get("MICROTOME_MODEL_SERVER", ""))
    models = options.model or _listed(environment.get("MICROTOME_MODELS", ""))
    redis = options.redis or environment.get("MICROTOME_REDIS_URL")
    found: list[Finding] = []

    def tell(finding: Finding) -> None:
        found.append(finding)
        if not options.json:
            end = f" {finding.advice}" if finding.advice else ""
            print(f"{finding.state:6}  {finding.about}: {finding.said}{end}", flush=True)  # noqa: T201, a command

    async def ask_servers() -> None:
        async for finding in _servers(addresses, models):
            tell(finding)

    for finding in _settings() if "MICROTOME_MODEL_SERVER" in environment else ():
        tell(finding)
    asyncio.run(ask_servers())
    for finding in _redis(redis) if redis else ():
        tell(finding)
    for url in options.gateway or [_own_address(environment)]:
        for finding in _gateway(url.rstrip("/")):
            tell(finding)
    if options.json:
        print(json.dumps([finding._asdict() for finding in found], indent=1))  # noqa: T201
    return int(any(finding.state == "FAILED" for finding in found))


def _listed(value: str) -> list[str]:
    return [entry.strip() for entry in value.split(",") if entry.strip()]


def _own_address(environment: Mapping[str, str]) -> str:
    host = environment.get("MICROTOME_HOST", "127.0.0.1")
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    return f"http://{host}:{environment.get('MICROTOME_PORT', '8000')}"


def _settings() -> Iterator[Finding]:
    from service.settings import SettingsError, read_settings  # noqa: PLC0415, so that --help is instant

    try:
        read_settings()
    except SettingsError as error:
        for line in str(error).splitlines():
            yield Finding("FAILED", "settings", line, "See docs/reference/settings.md.")
    else:
        yield Finding("ok", "settings", "a gateway starts with them")


async def _servers(addresses: Sequence[str], models: Sequence[str]) -> AsyncIterator[Finding]:
    """Check every model on every server."""
    from service.model_server.client import ModelServerClient  # noqa: PLC0415, as above
    from service.model_server.names import Name, Place, looked_up, understood  # noqa: PLC0415

    if not addresses:
        yield Finding("note", "model servers", "none is named.", "Set MICROTOME_MODEL_SERVER or --server.")
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
            yield Finding("FAILED", address, f"cannot be looked up: {error}.", advice)
            continue
        places += four or six
        yield Finding("ok", address, f"stands for {len(four or six)} model servers")
    clients = {place.target: ModelServerClient(place) for place in places}
    try:
        names, trouble = await expanded(models, list(clients.values()))
        if trouble and clients:
            yield Finding("note", "models", trouble, "Set MICROTOME_MODELS_CONFIG, or name them with --model.")
        versions: dict[str, dict[str, list[int]]] = {}
        for target, client in clients.items():
            async for finding in _models(target, client, names, versions):
                yield finding
        for model, by_server in versions.items():
            if len(set(map(tuple, by_server.values()))) > 1:
                said = "; ".join(f"{target} has {has or 'none'}" for target, has in by_server.items())
                advice = "Usual while a version is published; else see the log of the server that lacks one."
                yield Finding("note", model, f"versions differ: {said}.", advice)
    finally:
        for client in clients.values():
            await client.close()


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
            yield Finding("FAILED", about, "the server has no such model.", advice)
            continue
        except ServiceError as error:
            advice = "Is it running, and may this machine connect (port, network policy)? Frozen: restart it."
            yield Finding("FAILED", target, str(error), advice)
            return
        has = [version for version, state in sorted(states.items()) if state == "available"]
        versions.setdefault(model, {})[target] = has
        if not has:
            told = ", ".join(f"{version} is {state}" for version, state in sorted(states.items())) or "none is known"
            yield Finding("FAILED", about, f"no version is available: {told}.", "The server's log has the reason.")
        for version in has:
            try:
                yield _proved(f"{about} version {version}", await check_version(client, target, model, version))
            except ServiceError as error:
                yield Finding(
                    "FAILED", f"{about} version {version}", str(error), "Was Microtome's exporter its author?"
                )


def _proved(about: str, entry: Mapping[str, Any]) -> Finding:
    """Say what the golden vectors have shown."""
    if entry["outputs"] is None:
        return Finding("note", about, "answers, but has no golden vectors (manifest of version 1).", "Export it again.")
    output, worst = max(entry["outputs"].items(), key=lambda pair: pair[1]["deviation"] / pair[1]["tolerance"])
    said = f"{output} deviates by {worst['deviation']:.1e} of {worst['tolerance']:g}"
    if entry["ok"]:
        return Finding("ok", about, said)
    advice = "Another version or server is needed, or MICROTOME_ACCEPT_DEVIATION; see docs/proof.md."
    return Finding("FAILED", about, f"{said}: gateways do not use it there.", advice)


def _redis(url: str) -> Iterator[Finding]:
    """Send each command that the cache needs."""
    from redis import RedisCluster  # noqa: PLC0415, as above
    from redis.exceptions import RedisClusterException, RedisError, ResponseError  # noqa: PLC0415

    from service.cache.redis.client import connect  # noqa: PLC0415

    # Without password and options.
    about = f"{url.partition('://')[0]}://{url.partition('://')[2].rpartition('@')[2].partition('?')[0]}"
    lost = {
        "SET": "no vectors are kept",
        "GET": "no vectors are found",
        "MGET": "no vectors are found",
        "SET NX": "gateways may compute the same vector twice",
    }
    refused = False
    try:
        client = connect(url, seconds=_SECONDS)
        commands: dict[str, tuple[str | int, ...]] = {
            "SET": ("SET", _SCRATCH, "1", "PX", 1000),
            "GET": ("GET", _SCRATCH),
            "MGET": ("MGET", _SCRATCH),
            "SET NX": ("SET", f"{_SCRATCH}:claim", "1", "NX", "PX", 1000),
        }
        # A cluster is asked by GET, since the keys of a request lie on several nodes.
        for name in commands.keys() - ({"MGET"} if isinstance(client, RedisCluster) else set()):
            try:
                client.execute_command(*commands[name])  # type: ignore[no-untyped-call]
            except ResponseError as error:
                refused = True
                state: Literal["note", "FAILED"] = "note" if name == "SET NX" else "FAILED"
                advice = f"Let its user send {name.split()[0]} for keys that begin with mt1, and give it memory."
                yield Finding(state, about, f"{name} is refused ({error}): {lost[name]}.", advice)
    except ValueError as error:
        yield Finding("FAILED", "MICROTOME_REDIS_URL", f"{error}.", "See docs/reference/settings.md.")
    except (RedisError, RedisClusterException, OSError) as error:
        advice = "Is it running, and may this machine connect? Gateways work without it and compute every image."
        yield Finding("FAILED", about, f"does not answer: {type(error).__name__}.", advice)
    else:
        if not refused:
            yield Finding("ok", about, "does all that the cache needs")


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
        yield Finding("FAILED", f"gateway {url}", f"cannot be reached: {reason}.", advice)
        return
    if not isinstance(document, dict) or not isinstance(document.get("models"), dict):
        yield Finding("FAILED", f"gateway {url}", "what answers there is no gateway.", "Name it with --gateway.")
        return
    for model, trouble in document["models"].items():
        if trouble:
            yield Finding("FAILED", f"gateway {url} {model}", str(trouble), "See docs/runbooks/model-not-ready.md.")
    for name, trouble in document.get("dependencies", {}).items():
        if trouble:
            yield Finding("note", f"gateway {url} {name}", str(trouble), f"See the lines on {name} above.")
    serves = [model for model, trouble in document["models"].items() if not trouble]
    if document.get("ready"):
        yield Finding("ok", f"gateway {url}", f"ready; serves {', '.join(serves) or 'what is cached'}")
    else:
        yield Finding("FAILED", f"gateway {url}", "not ready: no model and no cache can answer, or a required one.")
