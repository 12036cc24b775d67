"""The models to serve: named by TensorFlow Serving's configuration message, or found on disk with their versions."""

import logging
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from microtome.tfserving.v1 import model_server_config_pb2
from modelserver.config.logs import LogThrottle
from modelserver.errors import InvalidArgument, NothingToServe
from modelserver.models.version_policy import Everything, Latest, Specific, VersionPolicy

LARGEST_VERSION = 2**63 - 1


log = logging.getLogger(__name__)
_throttle = LogThrottle(log)

_TENSORFLOW = 1  # ModelType.TENSORFLOW, the deprecated way to say platform "tensorflow"


class MissingBasePath(Exception):
    """A model's directory is missing or unreadable."""


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """One model to serve.

    Attributes:
        name: Its name in requests.
        base_path: The directory of its version directories.
        policy: Selects the versions to serve.
        labels: Version numbers by label.
        within: The directory that every version must be in, links resolved; None for anywhere.
    """

    name: str
    base_path: Path
    policy: VersionPolicy = field(default_factory=Latest)
    labels: Mapping[str, int] = field(default_factory=dict)
    within: Path | None = None

    @property
    def place(self) -> tuple[Path, Path | None]:
        """Where versions are looked for, and the directory that they must be in."""
        return self.base_path, self.within


def read_configs(
    server_config: model_server_config_pb2.ModelServerConfig,
    served: Collection[str] = (),
    within: Path | None = None,
) -> Sequence[ModelConfig]:
    """Read and check a ``tensorflow.serving.ModelServerConfig``.

    Args:
        server_config: The message.
        served: Names of the models that are served now; their platform must not change.
        within: The directory that all models must be in, links resolved; None for anywhere.

    Raises:
        InvalidArgument: It is of another kind, lists a model twice, or has a relative path, one outside of ``within``
            or a foreign platform.
    """
    if server_config.WhichOneof("config") != "model_config_list":
        raise InvalidArgument(
            "ServerModelConfig type not supported by HandleReloadConfigRequest. "
            "Only ModelConfigList is currently supported"
        )
    configs: dict[str, ModelConfig] = {}
    for entry in server_config.model_config_list.config:
        if entry.name in configs:
            raise InvalidArgument(f"Illegal to list model {entry.name} multiple times in config list")
        configs[entry.name] = _read(entry, served, within)
    for config in configs.values():
        if within is not None and not _is_inside(config.base_path, within):
            raise InvalidArgument(
                f"Expected model {config.name} to be below {within}, the --models_dir, links resolved; got "
                f"base_path()={config.base_path}"
            )
    return list(configs.values())


def _read(entry: model_server_config_pb2.ModelConfig, served: Collection[str], within: Path | None) -> ModelConfig:
    if not entry.base_path.startswith("/"):
        raise InvalidArgument(
            f"Expected model {entry.name} to have an absolute path or URI; got base_path()={entry.base_path}"
        )
    if not entry.model_platform and entry.model_type != _TENSORFLOW:
        raise InvalidArgument(
            "Illegal setting neither ModelServerConfig::model_type (deprecated) nor "
            f"ModelServerConfig::model_platform, model name is {entry.name}"
        )
    if entry.model_platform not in {"", "tensorflow"}:
        if entry.name in served:
            raise InvalidArgument(
                f"Illegal to change a model's platform. For model {entry.name} platform was tensorflow and new "
                f"platform requested is {entry.model_platform}"
            )
        raise InvalidArgument(f"Model {entry.name} requests unsupported platform {entry.model_platform}")
    labels = dict(entry.version_labels.items())
    return ModelConfig(entry.name, Path(entry.base_path), _policy(entry), labels, within)


def _is_inside(path: Path, directory: Path) -> bool:
    """Whether a path leads below a directory, links resolved on both sides."""
    try:
        resolved, root = path.resolve(), directory.resolve()
    except (OSError, ValueError, RuntimeError):  # unreadable, a null byte, a loop of links
        return False
    return resolved != root and resolved.is_relative_to(root)


def _policy(entry: model_server_config_pb2.ModelConfig) -> VersionPolicy:
    policy = entry.model_version_policy
    match policy.WhichOneof("policy_choice"):
        case "all":
            return Everything()
        case "specific":
            return Specific(frozenset(policy.specific.versions))
        case "latest":
            return Latest(policy.latest.num_versions or 1)
        case _:
            return Latest()


def models_of(models_dir: Path) -> Sequence[ModelConfig]:
    """List the models of a directory: every subdirectory that holds at least one version.

    Raises:
        NothingToServe: The directory is missing or has no model; the text says how to create one.
    """
    how = (
        f"Expected {models_dir}/<model>/<version>/saved_model.pb; export one with: "
        f"microtome export RECIPE --out {models_dir}"
    )
    try:
        candidates = sorted(path for path in models_dir.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise NothingToServe(f"No models directory: {models_dir}: {error.strerror}. {how}") from error
    found = []
    for path in candidates:
        try:
            if path.is_dir() and find_versions(path):
                found.append(ModelConfig(path.name, path))
        except MissingBasePath as error:  # changed meanwhile, or unreadable
            log.warning("Skipped %s", error)
    if not found:
        raise NothingToServe(f"No model in {models_dir}. {how}")
    return found


def find_versions(base_path: Path, within: Path | None = None) -> Mapping[int, Path]:
    """List the versions of a model.

    A version exists from the moment its directory appears, so publish with a rename. Names that are no numbers
    (``.tmp-43``) are ignored.

    Args:
        base_path: The model's directory.
        within: The directory that versions must be in, links resolved; others are ignored. None for anywhere.

    Returns:
        Version directories by number.

    Raises:
        MissingBasePath: The directory is missing or unreadable.
    """
    try:
        with os.scandir(base_path) as entries:
            names = sorted(entry.name for entry in entries if entry.name.isascii() and entry.name.isdigit())
            found: dict[int, Path] = {}
            for name in names:
                version, path = int(name), base_path / name
                if version > LARGEST_VERSION or not path.is_dir():
                    continue
                if within is not None and not _is_inside(path, within):
                    _throttle.write(
                        logging.WARNING, "%s leads out of %s, the --models_dir; it is not served", path, within
                    )
                    continue
                if version in found:
                    log.warning("%s and %s are the same version; the latter is not served", found[version], path)
                    continue
                found[version] = path
            return found
    except OSError as error:
        raise MissingBasePath(f"{base_path}: {error.strerror}") from error
