"""P10: from fork to ready, and memory then; by bench/startup.py."""

from functools import partial

from bench.processes.stack import Stack
from bench.ratios.effort import Effort
from bench.reporting.comparison import Comparison
from bench.startup import measure as measure_starts
from bench.startup import run_gateway


def measure(stack: Stack, effort: Effort) -> list[Comparison]:
    """Start gateways over the running model server until they are ready."""
    directory = stack.directory / "starts"
    directory.mkdir(exist_ok=True)
    samples = measure_starts(
        {"gateway": partial(run_gateway, directory, stack.model_server.address)}, effort.rounds + 2
    )
    seconds, megabytes = (list(column) for column in zip(*samples["gateway"], strict=True))
    return [
        Comparison("P10 start", "gateway from fork to ready", 1.0, at_least=False, rounds=seconds, unit=" s"),
        Comparison("P10 memory", "gateway's resident memory then", 100.0, at_least=False, rounds=megabytes, unit=" MB"),
    ]
