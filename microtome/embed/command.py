"""`microtome embed`: the exit codes, and what is said when it ends early."""

import sys
from collections.abc import Sequence

from microtome.embed.arguments import Options, read
from microtome.embed.engine import Engine
from microtome.embed.progress import Progress

REFUSED, INTERRUPTED = 2, 130


def main(argv: Sequence[str]) -> int:
    """Run the command line, whose first word is `embed`, and return its exit code.

    Raises:
        SystemExit: With 2 when the command line itself is wrong, with 0 after `--help`.
    """
    options = read(argv[1:])
    # After the command line has been read: --help is instant.
    from microtome.client.errors import MicrotomeError  # noqa: PLC0415
    from microtome.embed import running  # noqa: PLC0415
    from microtome.embed.errors import EmbedError  # noqa: PLC0415

    try:
        return running.run(options, _engine, sys.stdin, sys.stderr)
    except (EmbedError, MicrotomeError, ValueError) as error:
        sys.stderr.write(f"microtome embed: {error}\n")
        return REFUSED
    except KeyboardInterrupt:
        sys.stderr.write("microtome embed: interrupted; the same command goes on from here\n")
        return INTERRUPTED


def _engine(options: Options, progress: Progress) -> Engine:
    if options.engine == "ray":
        from microtome.embed.ray_engine import RayEngine  # noqa: PLC0415

        return RayEngine(options, progress)
    from microtome.embed.gateway_engine import GatewayEngine  # noqa: PLC0415

    return GatewayEngine(options, progress)
