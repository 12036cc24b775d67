"""What the model server's engines give on this machine: images per second and processor time per image, in turns.

    python bench/engines.py --models DIR [--model NAME] [--rounds 3] [--seconds 5] [--precision float32]

Contestants: TensorFlow; OpenVINO with two batches side by side, its default; OpenVINO with one batch at a time on all
cores (``--tensorflow_inter_op_parallelism=1``). Each is a model server of its own, batching; 32 clients ask for one
image each, again as soon as they have their answer. Servers that have no turn are idle. Processor time is the server's
own, so it says something on a busy machine too, where images per second do not.
"""

import argparse
import os
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
sys.path.insert(0, str(REPOSITORY))

from bench.model_server import CLIENTS, over_grpc  # noqa: E402
from tests.contract.tfserving.server_process import ServerProcess, eventually  # noqa: E402

CORES = len(os.sched_getaffinity(0))
ENGINES: Mapping[str, tuple[str, ...]] = {
    "tensorflow": ("--engine=tensorflow",),
    "openvino": ("--engine=openvino",),
    "openvino, one at a time": ("--engine=openvino", "--tensorflow_inter_op_parallelism=1"),
}
START_SECONDS = 600.0
"""Patience with busy machines."""

Sample = tuple[float, float]
"""Images per second, and the server's processor milliseconds per image."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--models", type=Path, required=True, help="a models directory, as `microtome export` writes it"
    )
    parser.add_argument("--model", action="append", help="models of it to measure (all)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each contestant runs (3)")
    parser.add_argument("--seconds", type=float, default=5.0, help="for how long each time (5)")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32", help="(float32)")
    options = parser.parse_args()
    precision = "--mixed_precision=bfloat16" if options.precision == "bfloat16" else "--mixed_precision="
    for model in options.model or sorted(path.name for path in options.models.iterdir() if path.is_dir()):
        samples = measure(options.models.resolve() / model, options.rounds, options.seconds, precision)
        print_table(f"{model}, {options.precision}", samples)


def measure(model: Path, rounds: int, seconds: float, *flags: str) -> Mapping[str, list[Sample]]:
    """Run all contestants in turning order."""
    found: dict[str, list[Sample]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="bench") as place, ExitStack() as stack:
        common = (f"--model_base_path={model}", f"--model_name={model.name}", "--enable_batching",
                  "--enable_serialization_as_tensor_content", *flags)  # fmt: skip
        servers: dict[str, ServerProcess] = {}
        for name, own in ENGINES.items():
            servers[name] = stack.enter_context(ServerProcess(Path(place) / str(len(servers)), *common, *own))
            wait_for(servers[name])
            over_grpc(servers[name].address, model.name, 2.0)
        names = list(servers)
        for number in range(rounds):
            for name in names[number % len(names) :] + names[: number % len(names)]:
                found[name].append(sample(servers[name], model.name, seconds))
    return found


def wait_for(server: ServerProcess) -> None:
    """Wait until a server serves, or has ended."""
    eventually(lambda: server.serving or server.process.poll() is not None, "serving", START_SECONDS)
    if not server.serving:
        raise SystemExit(f"The server ended at its start:\n{server.log}")


def sample(server: ServerProcess, model: str, seconds: float) -> Sample:
    """Load one server for a while."""
    before = processor_seconds(server.process.pid)
    rate = over_grpc(server.address, model, seconds)
    return rate, (processor_seconds(server.process.pid) - before) * 1e3 / (rate * seconds)


def processor_seconds(pid: int) -> float:
    """What a process has used so far, all threads, in user and in kernel mode; /proc/PID/stat, fields 14 and 15."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def print_table(title: str, samples: Mapping[str, list[Sample]]) -> None:
    """Print medians, spreads, and what each gains over TensorFlow: the median of the rounds' ratios."""
    base = samples["tensorflow"]
    print(
        f"{title}: {CLIENTS} clients of one image, {CORES} cores, {len(base)} rounds in turns; median (least to most)"
    )
    for name, rows in samples.items():
        rates, costs = zip(*rows, strict=True)
        gains = [own[0] / other[0] for own, other in zip(rows, base, strict=True)]
        savings = [other[1] / own[1] for own, other in zip(rows, base, strict=True)]
        print(f"  {name:28}{spread(rates)} images/s{spread(costs)} ms of processor per image")
        print(f"  {'':28}{spread(gains)} times TensorFlow's rate{spread(savings)} images for its processor time")


def spread(values: tuple[float, ...] | list[float]) -> str:
    """Write a median and a range."""
    return f"{statistics.median(values):9.2f} ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    main()
