"""Write the bytecode of everything that the gateway imports under PYTHONPYCACHEPREFIX: `bytecode.py`.

The image's file system is read-only, so that Python cannot keep bytecode when it runs, and images of Python come
without that of its library: each start, and each health check, would compile it anew. What is never imported gets none,
since it would be megabytes. It is valid by itself and not by its source's time, which changes with every build.

That everything can be imported and every format decoded shows that nothing is missing which is needed.
"""

import importlib
import io
import pkgutil
import py_compile
import sys
from pathlib import Path

from PIL import Image

import service
from microtome.preprocessing import FORMATS

LATE = (
    "anyio._backends._asyncio",
    "http.client",  # of the health check
    "uvicorn.lifespan.on",
    "uvicorn.loops.uvloop",
    "uvicorn.protocols.http.httptools_impl",
)
"""What others import once they run. A test starts a gateway and finds that nothing is left out."""


def import_everything() -> None:
    """Import all modules of the gateway, and what they would import later."""
    names = [module.name for module in pkgutil.walk_packages(service.__path__, "service.")]
    for name in [*names, *LATE]:
        importlib.import_module(name)


def decode_every_format() -> None:
    """Write a picture in every format that is accepted, and read it, for which Pillow imports all of its formats."""
    for name in FORMATS:
        encoded = io.BytesIO()
        Image.new("RGB", (8, 8)).save(encoded, name)
        Image.open(io.BytesIO(encoded.getvalue()), formats=[name]).load()


def sources() -> list[Path]:
    """List the files that modules were imported from, this one left out."""
    files = {getattr(module, "__file__", None) or "" for module in sys.modules.values()} - {__file__}
    return sorted(Path(file) for file in files if file.endswith(".py"))


def main() -> int:
    """Write the bytecode and return the exit code."""
    if sys.pycache_prefix is None:
        sys.stderr.write("Expected PYTHONPYCACHEPREFIX to say where to write bytecode. It is not set.\n")
        return 2
    import_everything()
    decode_every_format()
    for source in sources():
        py_compile.compile(str(source), doraise=True, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    return 0


if __name__ == "__main__":
    sys.exit(main())
