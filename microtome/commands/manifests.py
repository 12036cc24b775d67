"""`microtome manifests`: the files of deploy/, for any recipe.

deploy/ comes with the exporter, and most of it is the same for every recipe. What names a model is made here:
TensorFlow Serving's models.config, and in recipe/ the gateway's list of models, the recipe with the files that it
names, and what Kubernetes needs for them. deploy/ itself is this command's output for the repository's recipe.yaml.
"""

import argparse
import hashlib
import json
import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from microtome import __version__
from microtome.errors import shown

if TYPE_CHECKING:
    from exporter.recipe.resolved import ModelRecipe, Recipe

TARGETS = ("compose", "kubernetes")
RECORD = "manifests.sha256"
"""What the command has written, as sha256sum prints it: nothing else is replaced later."""
OWN = "kustomization.yaml"
"""The operator's file, written where there is none."""
MODELS = "tfserving/models.config"
GATEWAY = "recipe/gateway.env"

_DESCRIPTION = """\
Write what serves a recipe's models with Docker Compose or on Kubernetes into a folder: the files of deploy/, for this
recipe. Run it again after a change of the recipe, and with a new release."""

_EPILOG = """\
examples:
  microtome manifests recipe.yaml --target kubernetes --out mine && kubectl apply -k mine
  microtome manifests recipe.yaml --target compose --out mine && docker compose -f mine/compose/compose.yaml up

A file that the command did not write, or that was changed since, is never replaced without --force. Changes of your own
go into mine/kustomization.yaml, which is written where there is none and then is yours."""

_NOT_FOR = {
    "compose": ("kubernetes/", "ray/", OWN, "recipe/kustomization.yaml", "recipe/network.yaml", "recipe/Dockerfile"),
    "kubernetes": ("alertmanager/", "compose/", "prometheus/", "grafana/provisioning/"),
}
"""How paths begin that a target has no use for."""
_PREFLIGHT = "kubernetes/components/gpu/preflight.sh"
"""Of the files for Kubernetes, the one that compose mounts too."""
_COPIED = (".config", ".env", ".json", ".sh", ".yaml", ".yml", "Dockerfile")
_NOT_COPIED = ("gpu/", "image/", "prometheus/tests/")
"""Folders of deploy/ for those who develop it."""

_LARGEST_CONFIG_MAP = 180_000
"""Bytes: as base64, below the 262,144 in which `kubectl apply` keeps a copy of an object."""
_PLAIN = re.compile(r"[\w./ -]+", re.ASCII)
"""Paths that kustomize reads as they are."""
_PATH_KEYS = {"backbone", "weights", "labels", "source", "calibration", "folder", "head"}
"""Keys of recipes whose text may be a path."""
_TAKEN = ("recipe.yaml", "kustomization.yaml", "gateway.env", "network.yaml", "Dockerfile")
_LABEL = "stable"
"""Which gateways follow, and `microtome rollout` moves."""

_COMPONENT = """\
# By `microtome manifests`: what of the manifests depends on the recipe.
apiVersion: kustomize.config.k8s.io/v1alpha1
kind: Component
{resources}configMapGenerator:
  - name: gateway
    behavior: merge
    envs: [gateway.env]
"""
_CONFIG_MAP = """\
  - name: recipe
    files: {files}
patches:
  - patch: |
      apiVersion: apps/v1
      kind: Deployment
      metadata: {{name: exporter}}
      spec:
        template:
          spec:
            initContainers:
              - name: exporter
                volumeMounts: [{{name: recipe, mountPath: /recipe, readOnly: true}}]
            volumes:
              - name: recipe
                configMap: {{name: recipe, items: {items}}}
"""
_IMAGE = """\
# Its files are too large for a ConfigMap: build Dockerfile under this name, and push it.
images:
  - {{name: microtome/exporter, newName: microtome/recipe, newTag: {tag}}}
"""

Files = Mapping[str, bytes | Path]
"""Contents by path below the folder; a path as the content is a file to copy."""


class CannotWrite(Exception):
    """The files cannot be made or written; the message says what to do."""


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(
        prog="microtome manifests",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("recipe", type=Path, metavar="RECIPE", help="a recipe file, such as recipe.yaml")
    add("--target", choices=TARGETS, help="where the models will be served (both)")
    add("--out", type=Path, required=True, metavar="DIR", help="the folder to write")
    add("--force", action="store_true", help="also replace files that the command did not write, or that were changed")
    return parser


def main(argv: Sequence[str]) -> int:
    """Run `microtome manifests …` and return its exit code: 0, or 2 when the user must change something."""
    options = build_parser().parse_args(list(argv[1:]))
    # Imported after the command line has been read, so that --help needs no pydantic.
    from exporter.errors import ExporterError  # noqa: PLC0415
    from exporter.recipe.reading import read_recipe  # noqa: PLC0415

    try:
        recipe = read_recipe(options.recipe)
        files = manifests(recipe, options.target, options.out)
        _write(options.out, files, options.target, force=options.force)
    except OSError as error:
        message = f"Expected to read {options.recipe} and to write {options.out}. Received: {error}."
    except (ExporterError, CannotWrite) as error:
        message = str(error)
    else:
        for line in _told(recipe, files, options.out):
            print(shown(line))  # noqa: T201, a command
        return 0
    for line in f"microtome: {message}".split("\n"):
        print(shown(line), file=sys.stderr)  # noqa: T201, a command
    return 2


def manifests(recipe: "Recipe", target: str | None, out: Path) -> Files:
    """Return the files that serve a recipe.

    Args:
        recipe: The recipe.
        target: One of `TARGETS`; None for both.
        out: Where they will be. A pinned version that is in use there stays loaded when the recipe pins another.

    Raises:
        CannotWrite: The recipe names a file that cannot be taken along, or this installation lacks files.
    """
    import exporter  # noqa: PLC0415
    from exporter.savedmodel.publication import served_entry  # noqa: PLC0415

    root = Path(exporter.__file__).with_name("deploy").resolve()
    if not (root / GATEWAY).is_file():
        raise CannotWrite(f"Expected the files of deploy/ in {root}, which come with the exporter. Install it again.")
    common = {path.relative_to(root).as_posix(): path for path in root.rglob("*") if path.name.endswith(_COPIED)}
    pins = {model.name: _pinned(model, out / MODELS) for model in recipe.models}
    entries = [served_entry(name, f"/models/{name}", *pinned) for name, pinned in pins.items()]
    files = {
        **{path: content for path, content in common.items() if not path.startswith(_NOT_COPIED)},
        MODELS: f"{_until(root / MODELS, 'model_config_list')} {{\n{''.join(entries)}}}\n".encode(),
        GATEWAY: f"{_until(root / GATEWAY, 'MICROTOME_MODELS=')}{','.join(pins)},*\n".encode(),
        **_of_recipe(recipe),
    }
    return {path: content for path, content in sorted(files.items()) if _is_for(target, path)}


def _until(path: Path, word: str) -> str:
    """Return a file's text with this word as its last one; what follows depends on the recipe."""
    return "".join(path.read_text(encoding="utf-8").partition(word)[:2])


def _is_for(target: str | None, path: str) -> bool:
    return target is None or path == _PREFLIGHT or not path.startswith(_NOT_FOR[target])


def _pinned(model: "ModelRecipe", before: Path) -> tuple[Sequence[int], Mapping[str, int]]:
    """Return the versions that are loaded in place of the newest, and their labels.

    They are the one that the recipe pins, with the one in use before, which serves until the new one has been exported
    and loaded. Where the recipe pins none, those of before stay, since a rollout may have chosen them.
    """
    from microtome.commands.rollout.configuration import ConfiguredModel, configured  # noqa: PLC0415
    from microtome.commands.rollout.errors import CannotBegin  # noqa: PLC0415

    try:
        found = configured(before.read_text(encoding="utf-8"), model.name)
    except (OSError, UnicodeDecodeError, CannotBegin):
        found = ConfiguredModel((), {})  # a file that cannot be read is not replaced unasked
    if model.version is None:
        return found
    used = found.labels.get(_LABEL, model.version)
    versions = {model.version, *(found.versions if used == model.version else (used,))}
    return sorted(versions), {_LABEL: model.version}


def _of_recipe(recipe: "Recipe") -> Files:
    """Return the recipe, the files that it names, and what of Kubernetes depends on them."""
    named = _named_files(recipe)
    component = _COMPONENT.format(resources="resources: [network.yaml]\n" if _fetching(recipe) else "")
    if sum(path.stat().st_size for path in named.values()) <= _LARGEST_CONFIG_MAP and all(map(_PLAIN.fullmatch, named)):
        keys = {f"{number}-{re.sub('[ /]', '_', name)}" if number else name: name for number, name in enumerate(named)}
        files = json.dumps([key if key == name else f"{key}={name}" for key, name in keys.items()])
        items = json.dumps([{"key": key, "path": name} for key, name in keys.items()])
        component += _CONFIG_MAP.format(files=files, items=items)
    else:
        digests = "".join(f"{_digest(path)} {name}\n" for name, path in named.items())
        component += _IMAGE.format(tag=f"{__version__}-{_digest(digests.encode())[:12]}")
    found: Files = {**named, "kustomization.yaml": component.encode()}
    return {f"recipe/{name}": content for name, content in found.items()}


def _named_files(recipe: "Recipe") -> dict[str, Path]:
    """Return the recipe, and the files that it names by their path from its folder.

    Raises:
        CannotWrite: One of them is elsewhere, or has a name that the command uses.
    """
    from exporter.recipe.files import image_files  # noqa: PLC0415
    from exporter.recipe.own_backbones import FUNCTION, PRESET_PREFIX  # noqa: PLC0415
    from exporter.recipe.resolved import IMAGENET  # noqa: PLC0415

    tree, folder = recipe.tree, recipe.path.absolute().parent
    found: list[Path] = []
    for loc, (where, line) in tree.places.items():
        value = tree.value(loc)
        if not isinstance(value, str) or loc[-1] not in _PATH_KEYS:
            continue
        text = value.removeprefix(PRESET_PREFIX)
        if text.startswith(("/", "~")) or ".." in Path(text).parts or text in _TAKEN:
            raise CannotWrite(
                f"{recipe.path}:{line}: {where}: expected a file in the recipe's folder, to take it along, of another "
                f"name than {', '.join(_TAKEN)}. Received: {value}."
            )
        if loc[-1] == "backbone" and FUNCTION.fullmatch(value):
            module = folder.joinpath(*value.partition(":")[0].split("."))
            found += [module.with_suffix(".py"), *(above / "__init__.py" for above in module.parents)]
        elif loc[-1] in ("labels", "source") and value != IMAGENET:
            found.append(folder / value)
    for model in recipe.models:
        found += [Path(path) for path, _ in model.files]
        if model.calibration is not None:
            found += image_files(Path(model.calibration.folder), model.calibration.images)
    there = (path for path in sorted(set(found)) if path.is_relative_to(folder) and path.is_file())
    return {"recipe.yaml": recipe.path, **{path.relative_to(folder).as_posix(): path for path in there}}


def _fetching(recipe: "Recipe") -> list[str]:
    """Return the models whose export may need the internet; EfficientNet-Lite's weights are in the exporter's image."""
    from exporter.recipe.own_backbones import FUNCTION, PRESET_PREFIX  # noqa: PLC0415

    def fetches(model: "ModelRecipe") -> bool:
        if model.backbone.startswith(PRESET_PREFIX):
            return not Path(model.backbone.removeprefix(PRESET_PREFIX)).is_absolute()
        published = model.weights == "imagenet" and not model.backbone.startswith("EfficientNetLite")
        return published or FUNCTION.fullmatch(model.backbone) is not None

    return [model.name for model in recipe.models if fetches(model)]


def _write(out: Path, files: Files, target: str | None, *, force: bool) -> None:
    """Write files, and remove what an earlier run wrote for a target and this one does not.

    Raises:
        CannotWrite: A file is there that no earlier run wrote, or that was changed since.
        OSError: The folder cannot be written.
    """
    if out.exists() and not out.is_dir():
        raise CannotWrite(f"Expected --out to be a folder. Received: {out}, which is a file.")
    record = _read_record(out / RECORD)
    if (out / OWN).exists():
        files = {path: content for path, content in files.items() if path != OWN}
    wanted = {path: _digest(content) for path, content in files.items()}
    there = {path: _digest(out / path) for path in {*wanted, *record} if (out / path).is_file()}
    foreign = [
        path
        for path, digest in wanted.items()
        if (out / path).exists() and there.get(path) not in (digest, record.get(path, digest))
    ]
    if foreign and not force:
        more = f" and {len(foreign) - 3} more" if len(foreign) > 3 else ""
        raise CannotWrite(
            f"Expected a new folder, or one as microtome manifests wrote it. Received: {out}, where "
            f"{', '.join(foreign[:3])}{more} were written by others, or changed. Nothing was written: move them, give "
            "another --out, or replace them with --force."
        )
    for path, content in files.items():
        if there.get(path) != wanted[path]:
            place = out / path
            place.parent.mkdir(parents=True, exist_ok=True)
            draft = place.with_name(f".{place.name}.tmp")
            if isinstance(content, Path):
                shutil.copyfile(content, draft)
            else:
                draft.write_bytes(content)
            draft.replace(place)
    for path in [path for path in record if path not in wanted and path != OWN and _is_for(target, path)]:
        if there.get(path) == record.pop(path):
            (out / path).unlink()
    lines = (f"{digest}  {path}\n" for path, digest in sorted({**record, **wanted}.items()))
    (out / RECORD).write_text("".join(lines), encoding="utf-8")


def _read_record(path: Path) -> dict[str, str]:
    """Return the digests of an earlier run by path; none where there was no such run."""
    if not path.is_file():
        return {}
    lines = (line.partition("  ") for line in path.read_text(encoding="utf-8", errors="replace").splitlines())
    return {name: digest for digest, _, name in lines}


def _digest(content: bytes | Path) -> str:
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    with content.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _told(recipe: "Recipe", files: Files, out: Path) -> Iterator[str]:
    """Yield what was written, and what is to be done next."""
    from exporter.recipe.own_backbones import PRESET_PREFIX  # noqa: PLC0415

    yield f"{out} serves {', '.join(model.name for model in recipe.models)}: {len(files)} files"
    if "compose/compose.yaml" in files:
        yield f"with Docker: docker compose -f {out}/compose/compose.yaml up --detach"
    for model in recipe.models:
        if model.version is None and (versions := _pinned(model, out / MODELS)[0]):
            yield f"{model.name} stays at {', '.join(map(str, versions))}: without {out}/{MODELS} it gets the newest"
    if OWN not in files:
        return
    hub = [model.name for model in recipe.models if model.backbone.startswith(PRESET_PREFIX)]
    if hub:
        yield f"the exporter's image has no KerasHub: export {', '.join(hub)} elsewhere, and copy the models directory"
    if fetching := _fetching(recipe):
        yield f"weights of {', '.join(fetching)} are fetched: {out}/recipe/network.yaml allows the exporter HTTPS"
    component = files["recipe/kustomization.yaml"]
    if isinstance(component, bytes) and (image := re.search(rb"newTag: (\S+)}", component)):
        yield f"build, and push: docker build -t microtome/recipe:{image[1].decode()} {out}/recipe"
    yield f"on Kubernetes, see {out}/{OWN}: kubectl apply -k {out}"
