"""The command line of `microtome rollout`."""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from microtome.commands.rollout.errors import CannotBegin, RolloutError

_DESCRIPTION = """\
Take another version of a model into use while requests run: load it beside the old one on every model server, try it,
move the label that gateways follow, unload the old one. Going back is the same with the old version's number.

Until the label is moved, whatever goes wrong (Ctrl-C and SIGTERM too) puts the configuration back as it was."""

_EPILOG = """\
examples:
  microtome rollout lite0 2 --config deploy/tfserving/models.config --server localhost:8500 --gateway http://localhost:8000
  microtome rollout lite0 2 --configmap models-rollout --config models.config --server dns:///model-server:8500
  microtome rollout lite0 --config models.config --server localhost:8500           (shows the present state)

Gateways follow a label when MICROTOME_VERSION_LABEL is set to it. A gateway's key is taken from MICROTOME_API_KEY."""


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(
        prog="microtome rollout",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("model", metavar="MODEL", help="the model's name")
    add("version", metavar="VERSION", type=_version, nargs="?", help="to be used; none shows the state")
    add(
        "--config",
        type=Path,
        metavar="FILE",
        help="models.config, which model servers poll; with --configmap only read",
    )
    add(
        "--configmap",
        metavar="NAME",
        help="the ConfigMap that holds it, or what rollouts change of --config; by this pod's service account, else "
        "kubectl",
    )
    add("--namespace", help="of the ConfigMap (the pod's, or kubectl's own)")
    add("--key", default="models.config", help="of the ConfigMap (models.config)")
    add(
        "--server",
        action="append",
        required=True,
        metavar="ADDRESS",
        help="a model server, repeatable: host:port, unix:/path; a name with several addresses stands for all of them",
    )
    add(
        "--gateway",
        action="append",
        default=[],
        metavar="URL",
        help="a gateway, repeatable: tries the new version first, and is waited for; a name may stand for several",
    )
    add("--label", default="stable", help="that gateways follow (stable)")
    add("--keep", action="store_true", help="leave the old version loaded, so that going back is instant")
    add("--timeout", type=float, default=600.0, metavar="SECONDS", help="for each step (600)")
    add("--settle", type=float, default=10.0, metavar="SECONDS", help="for gateways not named (10)")
    return parser


def main(argv: Sequence[str]) -> int:
    """Run `microtome rollout …` and return its exit code: 0, 1 when it failed, 2 when it could not begin."""
    options = build_parser().parse_args(list(argv[1:]))
    # Sent by `docker stop` and when a pod ends; process 1 of a container ignores it by default.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        _run(options)
    except RolloutError as error:
        print(f"microtome: {error}", file=sys.stderr)  # noqa: T201, a command
        return error.exit_code
    except KeyboardInterrupt:
        print("microtome: interrupted; see the state with the same command without a version", file=sys.stderr)  # noqa: T201
        return 130
    return 0


def _run(options: argparse.Namespace) -> None:
    # Imported after the command line has been read, so that --help needs no gRPC.
    from microtome.commands.rollout.configuration import ConfigMapStore, FileStore, Store  # noqa: PLC0415
    from microtome.commands.rollout.gateways import gateways_at  # noqa: PLC0415
    from microtome.commands.rollout.rolling import Rolling, say, status_lines  # noqa: PLC0415
    from microtome.commands.rollout.servers import servers_at  # noqa: PLC0415

    if options.configmap is None:
        if options.config is None:
            raise CannotBegin("Expected --config, --configmap, or both; received neither.")
        if options.namespace:
            raise CannotBegin("Expected --namespace with --configmap; received it with --config.")
        store: Store = FileStore(options.config)
    else:
        store = ConfigMapStore(options.configmap, options.key, options.namespace, options.config)
    servers = servers_at(options.server)
    gateways = gateways_at(options.gateway, os.environ.get("MICROTOME_API_KEY"))
    if options.version is None:
        for line in status_lines(store, servers, gateways, options.model):
            say(line)
        return
    Rolling(store, servers, gateways, options.model, options).to(options.version)


def _version(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a version's number, from 1 up; received {text!r}")
    return int(text)
