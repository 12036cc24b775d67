"""Read and change TensorFlow Serving's `models.config` without losing what else stands in it."""

from collections.abc import Sequence
from dataclasses import dataclass

from google.protobuf import text_format

from microtome.rollout.errors import CannotBegin
from microtome.tfserving.v1.model_server_config_pb2 import ModelConfig, ModelServerConfig, ServableVersionPolicy


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the file says of one model.

    Attributes:
        versions: exactly these; none when it says something else (the newest, or all).
        labels: version numbers by label.
    """

    versions: tuple[int, ...]
    labels: dict[str, int]


def wanted(text: str, model: str) -> Wanted:
    """Say what the file wants of a model.

    Raises:
        CannotBegin: the text is no ModelServerConfig, or does not name the model.
    """
    entry = _entry(_parsed(text), model)
    return Wanted(tuple(entry.model_version_policy.specific.versions), dict(entry.version_labels))


def changed(text: str, model: str, versions: Sequence[int], labels: dict[str, int]) -> str:
    """Return the file with a model's versions and labels replaced; comments at its beginning stay.

    Labels that point at a version which is not kept are dropped: a server refuses them.

    Raises:
        CannotBegin: see `wanted`.
    """
    config = _parsed(text)
    entry = _entry(config, model)
    policy = ServableVersionPolicy(specific=ServableVersionPolicy.Specific(versions=sorted(versions)))
    entry.model_version_policy.CopyFrom(policy)
    kept = {**entry.version_labels, **labels}
    entry.version_labels.clear()
    entry.version_labels.update({label: version for label, version in sorted(kept.items()) if version in versions})
    return _heading(text) + text_format.MessageToString(config)


def _parsed(text: str) -> ModelServerConfig:
    try:
        return text_format.Parse(text, ModelServerConfig())
    except text_format.ParseError as error:
        raise CannotBegin(f"Expected a ModelServerConfig in protobuf's text format. {error}") from None


def _entry(config: ModelServerConfig, model: str) -> ModelConfig:
    for entry in config.model_config_list.config:
        if entry.name == model:
            return entry
    listed = ", ".join(entry.name for entry in config.model_config_list.config) or "none"
    raise CannotBegin(f"Expected a model that the configuration names: {listed}. Received: {model!r}.")


def _heading(text: str) -> str:
    lines = []
    for line in text.splitlines(keepends=True):
        if line.strip() and not line.lstrip().startswith("#"):
            break
        lines.append(line)
    return "".join(lines)
