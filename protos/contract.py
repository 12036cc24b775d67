"""Hold the gRPC contract to its style, and to what callers were promised: the committed descriptor.

    python protos/contract.py [--write] [--protos DIR]

buf's lint says what is unusual, buf's breaking-change check what would break a caller that was built against the
descriptor `embedding.binpb`. With --write, and nothing broken, the descriptor takes up what has been added. A change
that is meant to break callers belongs into a `v2` beside `v1`. Before the first release, remove the descriptor and
write it again.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

PROTOS = Path(__file__).parent
CONTRACT = "microtome/v1/embedding.proto"


def describe(protos: Path, *options: str) -> bytes:
    """Compile the contract to a serialised FileDescriptorSet, with what it imports, all of which is below `protos`.

    Raises:
        SystemExit: it does not compile.
    """
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "contract.binpb"
        words = [f"-I{protos}", "--include_imports", f"--descriptor_set_out={out}", *options, CONTRACT]
        if subprocess.run([sys.executable, "-m", "grpc_tools.protoc", *words], check=False).returncode:  # noqa: S603
            raise SystemExit(f"{CONTRACT} does not compile.")
        return out.read_bytes()


def faults(protos: Path, promised: Path) -> list[str]:
    """Say what is wrong with the contract below `protos`, beside the descriptor that was `promised` if there is one."""
    with tempfile.TemporaryDirectory() as directory:
        now = Path(directory) / "now.binpb"
        now.write_bytes(describe(protos, "--include_source_info"))
        found = _buf("lint", str(now))
        return found + (_buf("breaking", str(now), "--against", str(promised)) if promised.exists() else [])


def _buf(*words: str) -> list[str]:
    buf = Path(sys.executable).with_name("buf")
    done = subprocess.run(  # noqa: S603, of our own environment
        [buf, *words, "--config", PROTOS / "buf.yaml"], capture_output=True, text=True, check=False
    )
    return (done.stdout + done.stderr).splitlines() or [f"buf {words[0]} failed"] * bool(done.returncode)


def main(arguments: list[str] | None = None) -> int:
    """Check, and write if asked to; return 1 when something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="take additions up into the descriptor")
    parser.add_argument("--protos", type=Path, default=PROTOS, help="where the contracts are (here)")
    options = parser.parse_args(arguments)
    promised = (options.protos / CONTRACT).with_suffix(".binpb")
    found = faults(options.protos, promised)
    if found:
        sys.stderr.write("\n".join([*found, "The contract is not as it should be, see protos/contract.py.\n"]))
        return 1
    now = describe(options.protos)
    if options.write:
        promised.write_bytes(now)
    elif not promised.exists() or promised.read_bytes() != now:
        sys.stderr.write(f"{promised.name} does not have all of {CONTRACT}: run make protos and commit.\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
