"""Keep what native libraries write to stderr away from the user, unless something goes wrong.

TensorFlow's C++ parts announce devices and optimisation passes there whatever the log level says, because they log
before anybody has initialised logging. Only the file descriptor knows them apart from us: it is pointed at a
temporary file, while Python's own `sys.stderr` keeps the real one.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator

from exporter.errors import ExporterError

_STDERR = 2


@contextlib.contextmanager
def native_noise_withheld() -> Iterator[None]:
    """Withhold native output for as long as the block runs; show it if the block fails unexpectedly."""
    sys.stderr.flush()
    ours = sys.stderr
    real = os.dup(_STDERR)
    with tempfile.TemporaryFile() as noise, os.fdopen(real, "w", buffering=1, encoding="utf-8") as stderr:
        os.dup2(noise.fileno(), _STDERR)
        sys.stderr = stderr
        try:
            yield
        except (ExporterError, KeyboardInterrupt):
            raise
        except BaseException:
            noise.seek(0)
            stderr.write(noise.read().decode(errors="replace"))
            raise
        finally:
            stderr.flush()
            os.dup2(stderr.fileno(), _STDERR)
            sys.stderr = ours
