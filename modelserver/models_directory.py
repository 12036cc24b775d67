"""What ``--models_dir`` points at: every model of a directory. The rules are ours, the real server has no such flag."""

from collections.abc import Sequence
from pathlib import Path

from modelserver.discovery import MissingBasePath, find_models
from modelserver.model_config import ModelConfig


class NothingToServe(Exception):
    """There is no model where the options point."""


def models_of(models_dir: Path) -> Sequence[ModelConfig]:
    """List the models of a directory, each with its latest version.

    Raises:
        NothingToServe: There is no directory, or no model in it; the text says how to get one.
    """
    try:
        found = find_models(models_dir)
    except MissingBasePath as error:
        raise NothingToServe(f"No models directory: {error}. {_how(models_dir)}") from error
    if not found:
        raise NothingToServe(f"No model in {models_dir}. {_how(models_dir)}")
    return [ModelConfig(name, path) for name, path in found.items()]


def _how(models_dir: Path) -> str:
    return (
        f"Expected {models_dir}/<model>/<version>/saved_model.pb; export one with: "
        f"microtome export RECIPE --out {models_dir}"
    )
