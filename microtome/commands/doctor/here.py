"""What this machine has: packages, memory, disk, ports, weights, the recipe, exported models and what they compute."""

import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any, Literal, NamedTuple

from microtome import machine
from microtome.commands.up.addresses import claim
from microtome.commands.up.errors import CannotStart

GOLDEN_SECONDS = 180.0
"""For all models together; TensorFlow alone takes some to be imported on a busy machine."""

_MB, _GB = 1 << 20, 1 << 30
_STUBS = ("microtome.v1.embedding_pb2_grpc", "microtome.tfserving.v1.predict_pb2")
_NEEDS = {True: (1 * _GB, 2 * _GB), False: (256 * _MB, 512 * _MB)}
"""Bytes of memory without which it fails, and with which it has room: with an embedded model server, and without."""
_DISK = (100 * _MB, 1 * _GB)
_SHOWN = ("tensorflow", "keras", "openvino", "protobuf", "grpcio")
_ONLY_MODELS = ("tensorflow", "efficientnet", "jsonschema", "pyyaml", "rich")
"""Beginnings of packages that a gateway without an embedded model server does without."""


State = Literal["ok", "warning", "failed"]


class Finding(NamedTuple):
    """One line.

    Attributes:
        state: `ok`, `warning` for what works with less, or `failed`.
        about: what was checked.
        said: what was found.
        advice: what to do.
    """

    state: State
    about: str
    said: str
    advice: str = ""


def packages(options: Namespace, *, embedded: bool) -> Iterator[Finding]:
    """Check Python, our wheels, what they need, and that the generated code fits protobuf and gRPC."""
    about, python = "versions", ".".join(map(str, sys.version_info[:3]))
    if not (3, 11) <= sys.version_info[:2] < (3, 14):
        yield Finding("failed", about, f"Python {python}.", "Use Python 3.11, 3.12 or 3.13.")
    ours = {name: _version(name) for name in ("microtome", "microtome-server")}
    if None in ours.values() or len(set(ours.values())) > 1:
        said = ", ".join(f"{name} {found or 'is not installed'}" for name, found in ours.items())
        yield Finding("failed", about, f"{said}.", "Install both wheels of one version: see docs/install.md.")
        return
    faults = list(_misfits(options, embedded=embedded))
    for stub in _STUBS:
        try:
            importlib.import_module(stub)
        except Exception as error:  # noqa: BLE001, protobuf and gRPC raise types of their own
            faults.append(f"{stub.split('.')[1]}'s generated code does not load: {str(error).splitlines()[0]}")
    if faults:
        advice = "make setup, or pip install of both wheels, brings what fits."
        yield Finding("failed", about, f"{'; '.join(faults)}.", advice)
        return
    others = [f"{name} {found}" for name in _SHOWN if (found := _version(name))]
    yield Finding("ok", about, ", ".join([f"Python {python}", f"microtome {ours['microtome']}", *others]))


def _version(name: str) -> str | None:
    for package in (name, f"{name}-cpu") if name == "tensorflow" else (name,):
        with suppress(PackageNotFoundError):
            return version(package)
    return None


def _misfits(options: Namespace, *, embedded: bool) -> Iterator[str]:
    """Yield what is missing, and what has another version than the server's wheel asks for."""
    if embedded and options.engine == "openvino" and _version("openvino") is None:
        yield "openvino is not installed, and --engine openvino needs it"
    for line in requires("microtome-server") or ():
        wanted, _, marker = line.partition(";")
        name, _, pinned = wanted.strip().partition("==")
        if marker or (not embedded and name.startswith(_ONLY_MODELS)) or name.startswith("opentelemetry"):
            continue
        found = _version(name)
        if found is None:
            yield f"{name} is not installed"
        elif pinned and found != pinned:
            yield f"{name} is {found}, expected {pinned}"


def resources(*, embedded: bool) -> Iterator[Finding]:
    """Check memory and cores, as control groups limit them."""
    total, cores = machine.memory(), machine.cores()
    least, enough = _NEEDS[embedded]
    what = "the gateway with an embedded model server" if embedded else "a gateway"
    said = f"{_size(total)} may be used; {what} needs {_size(least)} at least, {_size(enough)} with room for photos"
    state = _state(total, least, enough)
    advice = "" if state == "ok" else "Raise the container's limit, or use a machine with more: see docs/memory.md."
    yield Finding(state, "memory", f"{said}{'.' if advice else ''}", advice)
    plural = "s" if cores > 1 else ""
    advice = "" if cores > 1 else "It works; photos wait for each other: see docs/capacity.md."
    said = f"{cores} core{plural} by affinity and quota{'.' if advice else ''}"
    yield Finding("ok" if cores > 1 else "warning", "cores", said, advice)


def _size(count: float) -> str:
    return f"{count / _GB:.1f} GiB" if count >= _GB else f"{count / _MB:.0f} MiB"


def folders(options: Namespace) -> Iterator[Finding]:
    """Check that models and sockets can be written, and that there is room."""
    yield from _folder("models folder", options.models_dir, "Choose another with --models-dir, or change its owner.")
    yield from _folder("temporary files", Path(tempfile.gettempdir()), "Set TMPDIR to a folder that can be written.")


def _folder(about: str, path: Path, advice: str) -> Iterator[Finding]:
    # Where it is not there yet, it is made below the first that is.
    there = next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
        free = shutil.disk_usage(there).free
    except OSError as error:
        yield Finding("failed", about, f"{path} cannot be written: {error.strerror}.", advice)
        return
    state = _state(free, *_DISK)
    made = ", and is made by the first export" if there != path.absolute() else ""
    said = f"{path} can be written, with {_size(free)} free{made}"
    yield Finding(state, about, said if state == "ok" else f"{said}.", "" if state == "ok" else "Make room.")


def _state(found: float, least: float, enough: float) -> State:
    return "failed" if found < least else "warning" if found < enough else "ok"


def ports(options: Namespace, environment: Mapping[str, str], *, running: bool) -> Iterator[Finding]:
    """Check that each port is free, or that of a gateway that runs."""
    wanted = {"--port": options.port, "--grpc-port": options.grpc_port}
    wanted["MICROTOME_OPERATIONS_PORT"] = environment.get("MICROTOME_OPERATIONS_PORT")
    for option, port in wanted.items():
        if not port:
            continue
        about = f"port {port}"
        try:
            claim(options.host, int(port), option)
        except CannotStart as error:
            if running:
                yield Finding("ok", about, "in use, as it should be while a gateway runs")
                continue
            taken, _, advice = str(error).partition(". ")
            if option.isupper():
                advice = f"Stop that, or set {option} to another."
            yield Finding("failed", about, f"{taken}.", advice)
        except ValueError:
            yield Finding("failed", about, f"{option} is no port.", "Expected a number from 1 to 65535.")
        else:
            what = {"--port": "HTTP", "--grpc-port": "gRPC"}.get(option, "metrics")
            yield Finding("ok", about, f"free, for {what} on {options.host}")


def models(options: Namespace) -> Iterator[Finding]:
    """Check the recipe, the weights that it still needs, and each exported version's files."""
    from exporter.errors import ExporterError  # noqa: PLC0415, may not be installed
    from exporter.recipe.reading import read_recipe  # noqa: PLC0415
    from exporter.savedmodel.publication import published_version  # noqa: PLC0415
    from microtome.commands.up.run import installed_recipe  # noqa: PLC0415

    path = options.recipe or (Path("recipe.yaml") if Path("recipe.yaml").is_file() else installed_recipe())
    try:
        recipe = read_recipe(path)
    except ExporterError as error:
        for line in str(error).splitlines():
            advice = "docs/reference/recipe.md has every key; microtome up without --recipe serves the default one."
            yield Finding("failed", "recipe", line, advice)
        recipe = None
    for model in recipe.models if recipe else ():
        number = published_version(options.models_dir, model)
        if number is not None:
            yield Finding("ok", f"recipe {model.name}", f"exported as {options.models_dir / model.name / str(number)}")
            continue
        said = f"not exported from {path} yet."
        yield Finding("warning", f"recipe {model.name}", said, "microtome up does it at its start.")
        yield from _weights(model)
    for directory in newest(options.models_dir):
        yield _version_files(directory)


def _weights(model: Any) -> Iterator[Finding]:  # noqa: ANN401, a ModelRecipe, imported late
    """Say where the weights of a model come from that is still to be exported."""
    from exporter.recipe.backbones import BACKBONES  # noqa: PLC0415

    row = BACKBONES.get(model.backbone)
    if model.weights != "imagenet" or row is None or row.module is None:
        return
    cache = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras") / "models"
    # Keras spells names in several ways, such as mobilenet_v2_weights… and efficientnetv2-b0.
    form = re.compile(rf"{row.name.lower()}(?!v\d)")
    if any(form.search(re.sub("[_-]", "", path.name.lower())) for path in cache.glob("*.h5")):
        yield Finding("ok", f"weights {row.name}", f"in {cache}")
        return
    said = f"ImageNet weights are not in {cache}: the export downloads them."
    advice = "Without a network, give weights: FILE.h5, or use EfficientNetLite0, 1 or 2, whose weights are installed."
    yield Finding("warning", f"weights {row.name}", said, advice)


def newest(models_dir: Path) -> list[Path]:
    """Return the newest version of each model in a folder: what the embedded model server loads."""
    numbers: dict[Path, int] = {}
    for place in models_dir.glob("*/*"):
        if place.name.isascii() and place.name.isdecimal() and not place.parent.name.startswith("."):
            numbers[place.parent] = max(int(place.name), numbers.get(place.parent, -1))
    return [model / str(number) for model, number in sorted(numbers.items())]


def _version_files(directory: Path) -> Finding:
    """Check that a version is complete, and that its manifest can be read."""
    from microtome.golden import GoldenCheck  # noqa: PLC0415
    from microtome.protobuf import fields  # noqa: PLC0415

    about = f"model {directory.parent.name} {directory.name}"
    again = f"Remove {directory}, and export it again (microtome up does)."
    graph, path = directory / "saved_model.pb", directory / "assets.extra" / "manifest.json"
    for file in (graph, path):
        if not file.is_file():
            said = f"{file} is not there: the folder was written in part, or is no export of Microtome."
            return Finding("failed", about, said, again)
    try:
        raw = graph.read_bytes()
        if not list(fields(raw, 0, len(raw))):
            raise ValueError("it is empty")  # noqa: TRY301
    except (OSError, ValueError) as error:
        return Finding("failed", about, f"{graph} is damaged: {str(error).rstrip('.')}.", again)
    try:
        manifest = json.loads(path.read_bytes())
        fingerprint, outputs = manifest["fingerprint"], [output["name"] for output in manifest["outputs"]]
        GoldenCheck.read(manifest)
    except (OSError, ValueError, KeyError, TypeError) as error:
        return Finding("failed", about, f"{path} is damaged: {str(error).splitlines()[0].rstrip('.')}.", again)
    return Finding("ok", about, f"complete; outputs {', '.join(outputs)}; {fingerprint[:18]}…")


def golden(options: Namespace) -> Iterator[Finding]:
    """Compute the golden vectors of the newest versions with the engine that would serve them, in another process."""
    sound = [directory for directory in newest(options.models_dir) if _version_files(directory).state == "ok"]
    if not sound:
        return
    program = f"from {__name__} import computed; import sys; computed(*sys.argv[1:])"
    process = subprocess.Popen(  # noqa: S603, our own words
        [sys.executable, "-c", program, options.engine, *map(str, sound)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=GOLDEN_SECONDS)
    except subprocess.TimeoutExpired:
        said = f"not computed within {GOLDEN_SECONDS:.0f} s."
        yield Finding(
            "failed", "golden vectors", said, "Is the machine busy, or its memory full? --no-golden leaves it out."
        )
        return
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    lines = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    for directory, entry in zip(sound, lines, strict=False):
        about = f"golden vectors {directory.parent.name} {directory.name}"
        yield proved(about, entry, entry.get("engine") or options.engine)
    if len(lines) < len(sound):
        words = [line for line in err.splitlines() if line.strip()]
        said = f"{options.engine} ended with {process.returncode}: {words[-1][:300] if words else 'nothing was said'}."
        yield Finding(
            "failed", f"golden vectors {sound[len(lines)]}", said, "Is there memory for it? See docs/engines.md."
        )


def computed(engine: str, *directories: str) -> None:
    """Print how much each version deviates from its golden vectors, as a line of JSON; run in a process of its own."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from modelserver.application import open_engines  # noqa: PLC0415, an engine
    from modelserver.config.options import Options  # noqa: PLC0415
    from modelserver.errors import ServingError  # noqa: PLC0415

    for directory in map(Path, directories):
        try:
            entry = _computed(open_engines(Options(engine=engine))[0], directory)
        except (ServingError, ValueError) as error:
            entry = {"error": " ".join(str(error).split())[:300]}
        print(json.dumps(entry), flush=True)  # noqa: T201, read by `golden`


def _computed(engines: Sequence[Any], directory: Path) -> dict[str, Any]:
    """Measure a version by the first engine that computes its golden vectors, or by the last, as a load does."""
    from modelserver.config.manifest import golden_check  # noqa: PLC0415
    from modelserver.errors import ServingError  # noqa: PLC0415
    from modelserver.models.loading import measured  # noqa: PLC0415

    check = golden_check(directory)
    for engine in engines if check is not None else engines[-1:]:
        try:
            model = engine.load(directory)
            found = measured(model, check) if check is not None else {}
            model.close()
        except ServingError:
            if engine is engines[-1]:
                raise
            continue
        if check is None:
            break
        entry = {"ok": not check.beyond(found), "engine": engine.name}
        entry["outputs"] = {
            name: {"deviation": min(one, 1e9), "tolerance": check.tolerances[name]} for name, one in found.items()
        }
        if entry["ok"] or engine is engines[-1]:
            return entry
    return {"ok": True, "outputs": None}


def proved(about: str, entry: Mapping[str, Any], where: str) -> Finding:
    """Say what the golden vectors have shown.

    Args:
        about: which version.
        entry: `outputs`, each with `deviation` and `tolerance`, and whether all are `ok`; or `error`.
        where: what has computed them.
    """
    if "error" in entry:
        return Finding("failed", about, f"{where} cannot run it: {entry['error']}.", "Export it again.")
    if entry["outputs"] is None:
        return Finding("warning", about, "there are none (manifest of version 1).", "Export it again.")
    output, worst = max(entry["outputs"].items(), key=lambda pair: pair[1]["deviation"] / pair[1]["tolerance"])
    said = f"{output} deviates by {worst['deviation']:.1e} of {worst['tolerance']:g}, computed by {where}"
    if entry["ok"]:
        return Finding("ok", about, said)
    advice = "Export it again, or use another server; MICROTOME_ACCEPT_DEVIATION serves it: see docs/proof.md."
    return Finding("failed", about, f"{said}: gateways do not use it.", advice)
