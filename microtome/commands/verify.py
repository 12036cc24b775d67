"""`microtome verify`: a version by the exporter, or with --server what a running model server answers."""

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Sequence
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from microtome.commands.rollout.errors import CannotBegin
from microtome.errors import shown

if TYPE_CHECKING:
    from service.model_server.client import ModelServerClient

_SECONDS = 60.0
_DESCRIPTION = """\
Send the golden inputs of every version that a running model server has loaded, alone and in a batch of four, and
compare the answers with the golden vectors of its manifest. Ends with 1 when one deviates by more than its tolerance,
with 2 when the server or the model cannot be asked. Without --server: see microtome verify --help."""


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line of `microtome verify --server`."""
    parser = argparse.ArgumentParser(
        prog="microtome verify --server",
        usage="microtome verify --server ADDRESS [--model NAME] [--json]",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--server",
        action="append",
        required=True,
        metavar="ADDRESS",
        help="a model server, repeatable: host:port, unix:/path; a name with several addresses stands for all of them",
    )
    add(
        "--model",
        action="append",
        metavar="NAME",
        help="a model or a pattern, repeatable (those of MICROTOME_MODELS)",
    )
    add("--json", action="store_true", help="JSON, for programs")
    return parser


def main(argv: Sequence[str]) -> int:
    """Run `microtome verify …` and return its exit code."""
    words = list(argv[1:])
    if not any(word == "--server" or word.startswith("--server=") for word in words):
        from exporter.cli import main as exporter  # noqa: PLC0415, needs TensorFlow's packages

        return exporter(list(argv))
    options = build_parser().parse_args(words)
    models = options.model or [name for name in os.environ.get("MICROTOME_MODELS", "").split(",") if name.strip()]
    # Imported after the command line has been read, so that --help needs no gRPC.
    from microtome.commands.rollout.servers import resolved  # noqa: PLC0415

    if not models:
        print("microtome: Expected --model NAME or MICROTOME_MODELS. Received: neither.", file=sys.stderr)  # noqa: T201
        return 2
    try:
        servers = list(dict.fromkeys(one for address in options.server for one in resolved(address)))
        found = asyncio.run(_verify(servers, [model.strip() for model in models]))
    except CannotBegin as error:
        print(f"microtome: {shown(str(error))}", file=sys.stderr)  # noqa: T201, a command
        return 2
    if options.json:
        print(json.dumps(found, indent=1))  # noqa: T201
    for entry in () if options.json else found:
        print(shown(_line(entry)))  # noqa: T201
    return max(2 * ("error" in entry) or 1 * (not entry["ok"]) for entry in found)


async def _verify(servers: Sequence[str], models: Sequence[str]) -> list[dict[str, Any]]:
    from microtome.errors import ServiceError  # noqa: PLC0415
    from service.model_server.client import ModelServerClient  # noqa: PLC0415
    from service.model_server.names import Place  # noqa: PLC0415

    found: list[dict[str, Any]] = []
    clients = {server: ModelServerClient(Place(server)) for server in servers}
    names, trouble = await expanded(models, list(clients.values()))
    if not names:
        raise CannotBegin(f"Expected a model. {trouble}")
    for server, rpc in clients.items():
        for model in names:
            try:
                states = await rpc.versions(model, timeout=_SECONDS)
                versions = [version for version in sorted(states) if states[version] == "available"]
                found += [await check_version(rpc, server, model, version) for version in versions]
                if not versions:
                    error = f"no version is available; the server says: {states or 'nothing'}"
                    found.append({"server": server, "model": model, "version": None, "ok": False, "error": error})
            except ServiceError as error:
                found.append({"server": server, "model": model, "version": None, "ok": False, "error": str(error)})
        await rpc.close()
    return found


async def expanded(models: Sequence[str], servers: "Sequence[ModelServerClient]") -> tuple[list[str], str]:
    """Return the names that entries of MICROTOME_MODELS stand for, and why a pattern stands for none.

    Patterns are those of the gateway: MICROTOME_MODELS_CONFIG lists the models, or the servers do.
    """
    from microtome.errors import ServiceError  # noqa: PLC0415
    from service.model_server.registry import is_pattern, models_config  # noqa: PLC0415

    names, listed, trouble = [model for model in models if not is_pattern(model)], set[str](), ""
    patterns = [model for model in models if is_pattern(model)]
    path = os.environ.get("MICROTOME_MODELS_CONFIG")
    asks = [models_config(Path(path))] if path else [partial(rpc.listed, timeout=_SECONDS) for rpc in servers]
    for ask in asks if patterns else ():
        try:
            listed |= set(await ask())
        except ServiceError as error:
            trouble = str(error) if path else "The model servers do not list their models."
    matching = [name for name in sorted(listed) if any(fnmatchcase(name, pattern) for pattern in patterns)]
    if patterns and not matching:
        trouble = trouble or f"No model matches {', '.join(patterns)}."
    return list(dict.fromkeys(names + matching)), trouble


async def check_version(rpc: "ModelServerClient", server: str, model: str, version: int) -> dict[str, Any]:
    """Check one version by its golden vectors.

    Raises:
        ServiceError: it cannot be asked.
    """
    from microtome.golden import GoldenCheck  # noqa: PLC0415
    from microtome.manifest import ModelCard  # noqa: PLC0415
    from service.model_server.acceptance import measure  # noqa: PLC0415
    from service.model_server.predict_encoding import query_tensor, read_manifest  # noqa: PLC0415

    answer = await rpc.predict(model, version, "manifest", {"query": query_tensor()}, [], timeout=_SECONDS)
    card = ModelCard(model, version, read_manifest(model, answer))
    about = {"server": server, "model": model, "version": version, "fingerprint": card.manifest.fingerprint}
    check = GoldenCheck.of(card.manifest)
    if check is None:
        return {**about, "ok": True, "outputs": None}
    deviations = await measure(check, rpc, card, timeout=_SECONDS)
    outputs = {
        # JSON has no infinity, which stands for no vector at all.
        name: {"deviation": min(found, 1e9), "tolerance": check.tolerances[name]}
        for name, found in sorted(deviations.items())
    }
    return {**about, "ok": not check.beyond(deviations), "outputs": outputs}


def _line(entry: dict[str, Any]) -> str:
    which = f"{entry['server']}: {entry['model']}" + (f" version {entry['version']}" if entry["version"] else "")
    if "error" in entry:
        return f"{which}: {entry['error']}"
    if entry["outputs"] is None:
        return f"{which}: not proved: its manifest is of version 1, without golden vectors. Export it again."
    said = ", ".join(
        f"{name} {found['deviation']:.1e} of {found['tolerance']:g}" for name, found in entry["outputs"].items()
    )
    return f"{which}: {'ok' if entry['ok'] else 'DEVIATES'}: {said}"
