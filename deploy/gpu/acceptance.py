"""deploy/gpu/accept: does TensorFlow Serving do on this GPU what Microtome promises?

Starts the image as Kubernetes would, on the first GPU, and makes an assertion with a figure of each property that
nothing but a GPU can show: driver, arithmetic, spread of replicas, memory of sets of outputs, changes of versions,
speed, signals. Ends with 0 when all hold, with 1 when one does not, with 2 when it cannot begin.

Writes OUT/acceptance.json and OUT/acceptance.md, and with a GPU docs/gpu.json, which docs/capacity.md is made from
(python -m bench.capacity). With --cpu the procedure is tried on the embedded model server; what needs a GPU is skipped.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import steps
from machine import REPOSITORY, DockerServer, EmbeddedServer, Gpu, NotStarted, Server
from steps import Finding, Trial

IMAGE = "tensorflow/serving:2.20.0-gpu"
RECORD = REPOSITORY / "docs" / "gpu.json"
WORDS = {True: "ok", False: "FAILED", None: "skipped"}


def main(argv: Sequence[str]) -> int:
    """Try, write and say what was found."""
    options = _parser().parse_args(argv)
    gpu = None if options.cpu else Gpu.found()
    if gpu is None and not options.cpu:
        return _cannot(
            "Expected an NVIDIA GPU that nvidia-smi shows. Received none: --cpu tries the procedure without."
        )
    if gpu is not None and shutil.which("docker") is None:
        return _cannot("Expected Docker with NVIDIA's container toolkit. Received: docker is not installed.")
    models = options.models or _exported(options.model)
    version = max(
        (path for path in (models / options.model).glob("*/") if path.name.isdecimal()),
        key=lambda p: int(p.name),
        default=None,
    )
    if version is None:
        return _cannot(f"Expected a version of {options.model} in {models}. Received none.")
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="accept-") as directory:
        place = Path(directory)
        server: Server = (
            DockerServer(place, options.model, options.image) if gpu else EmbeddedServer(place, options.model)
        )
        trial = Trial(options.model, version, server, gpu, options.quick, place, _say)
        began = time.monotonic()
        try:
            _try_all(trial)
        finally:
            (options.out / "server.log").write_text(server.log(), encoding="utf-8")
            server.destroy()
    about = _about(trial, server, time.monotonic() - began)
    (options.out / "acceptance.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    (options.out / "acceptance.md").write_text(page(about), encoding="utf-8")
    failed = [finding for finding in trial.findings if finding.holds is False]
    if gpu is not None and not failed:
        kept = {name: value for name, value in about.items() if name != "findings"}
        RECORD.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
        print(f"docs/gpu.json is written; pin the image: {about['image']['digest']}")  # noqa: T201
    print(page(about).splitlines()[2])  # noqa: T201
    return int(bool(failed))


def _cannot(why: str) -> int:
    print(f"deploy/gpu/accept: {why}", file=sys.stderr)  # noqa: T201
    return 2


def _try_all(trial: Trial) -> None:
    """Make the steps; one that breaks is a failure, and without a server the rest cannot be made."""
    if not _made(trial, "a", lambda: steps.machine(trial)) or not _made(trial, "b", lambda: steps.start(trial)):
        return
    _made(trial, "c", lambda: steps.golden(trial))
    _made(trial, "h", lambda: steps.keepalive(trial))
    _made(trial, "g", lambda: steps.throughput(trial))
    if not _made(trial, "d", lambda: steps.spread(trial)):
        return
    if trial.gpu is not None:
        # Otherwise all of the device's memory is taken from the start on, and what sets of outputs need does not show.
        steps.again(trial, growth=True)

    # Before a gateway asks for anything.
    _made(trial, "e", lambda: steps.sizes(trial))

    def behind_a_gateway() -> None:
        with trial.gateway() as gateway:
            _made(trial, "e", lambda: steps.sets(trial, gateway))
            _made(trial, "f", lambda: steps.swaps(trial, gateway))
            _made(trial, "h", lambda: steps.signals(trial, gateway))

    _made(trial, "e", behind_a_gateway)


def _made(trial: Trial, step: str, make: Callable[[], None]) -> bool:
    """Make a step; return whether it came to its end."""
    try:
        make()
    except Exception as error:  # noqa: BLE001 - the report says what broke, and the other steps are still made
        trial.found(step, "the step comes to its end", f"{type(error).__name__}: {error}", holds=False)
        return False
    return step != "a" or not any(finding.holds is False for finding in trial.findings)


def _say(finding: Finding) -> None:
    print(f"{finding.step} {WORDS[finding.holds]:8}{finding.asked}: {finding.figure}", flush=True)  # noqa: T201


def _about(trial: Trial, server: Server, seconds: float) -> dict[str, Any]:
    revision = subprocess.run(  # noqa: S603 - constant
        ["git", "-C", str(REPOSITORY), "rev-parse", "--short", "HEAD"],  # noqa: S607
        capture_output=True,
        text=True,
        check=False,
    )
    manifest = json.loads((trial.version / "assets.extra" / "manifest.json").read_text(encoding="utf-8"))
    return {
        "gpu": None if trial.gpu is None else asdict(trial.gpu),
        "image": server.about()
        if isinstance(server, DockerServer)
        else {"digest": "python -m modelserver", "cudnn": "-"},
        "model": trial.model,
        "fingerprint": manifest["fingerprint"],
        "revision": revision.stdout.strip(),
        "quick": trial.quick,
        "seconds": round(seconds),
        "images/s": trial.rates,
        "findings": [asdict(finding) for finding in trial.findings],
    }


def page(about: "dict[str, Any]") -> str:
    """Lay out what was found, as Markdown."""
    findings = [Finding(**found) for found in about["findings"]]
    counts = {word: sum(WORDS[finding.holds] == word for finding in findings) for word in WORDS.values()}
    gpu, image = about["gpu"], about["image"]
    told = ", ".join(f"{count} {word}" for word, count in counts.items())
    rows = [f"| {f.step} | {f.asked} | {WORDS[f.holds]} | {f.figure.replace(chr(10), ' ')} |" for f in findings]
    return "\n".join(
        [
            f"# Acceptance of {about['model']} on {gpu['name'] if gpu else 'the CPU'}",
            "",
            f"{told}, in {about['seconds']} s; {image['digest']}, cuDNN {image['cudnn']}.",
            "",
            "| step | asked | | figure |",
            "|---|---|---|---|",
            *rows,
            "",
        ]
    )


def _exported(model: str) -> Path:
    """Export the default recipe, unless it has been."""
    models = REPOSITORY / "models"
    if not (models / model).is_dir():
        words = [sys.executable, "-m", "exporter", "export", str(REPOSITORY / "recipe.yaml"), "--out", str(models)]
        subprocess.run(words, check=True)  # noqa: S603 - ours
    return models


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="deploy/gpu/accept", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--models", type=Path, help="a directory as `microtome export` writes it (models/, by recipe.yaml)"
    )
    parser.add_argument("--model", default="lite0", help="the model of it that is tried (lite0)")
    parser.add_argument("--image", default=IMAGE, help=f"TensorFlow Serving with CUDA ({IMAGE})")
    parser.add_argument("--cpu", action="store_true", help="try the procedure on the embedded model server")
    parser.add_argument("--quick", action="store_true", help="less of everything, for tests of the procedure")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "build" / "gpu", help="for the report (build/gpu)")
    return parser


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except NotStarted as error:
        sys.exit(_cannot(str(error)))
