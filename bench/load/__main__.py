"""`python -m bench.load`: reads loads from standard input, a JSON object a line, and answers each with its outcome."""

import gc
import json
import sys
from dataclasses import asdict

import uvloop

from bench.load.plan import Load
from bench.load.run import Run


def main() -> None:
    """Serve until standard input ends."""
    for line in sys.stdin:
        load = Load(**json.loads(line))
        gc.collect()
        gc.disable()  # a pause of the collector would be counted as latency of the server
        try:
            answer = asdict(uvloop.run(Run(load).outcome()))
        except (OSError, TimeoutError) as error:  # of the server; the next load may be on another one
            answer = {"error": f"{type(error).__name__} {error}"}
        gc.enable()
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
