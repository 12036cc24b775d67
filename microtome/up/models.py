"""The recipe's models: their names, and exporting those that are not there yet."""

from pathlib import Path

from exporter.errors import ExporterError
from exporter.recipe.reading import read_recipe
from exporter.savedmodel.publication import published_version
from microtome.up.errors import CannotStart, ExportFailed
from microtome.up.plan import exporter
from microtome.up.processes import Child
from microtome.up.stopping import StopRequests
from microtome.up.terminal import Terminal

GRACE_SECONDS = 10.0


def model_names(recipe: Path) -> tuple[str, ...]:
    """Return the names of the recipe's models.

    Raises:
        CannotStart: When there is no recipe or it says nothing that can be served.
    """
    if not recipe.is_file():
        raise CannotStart(f"There is no recipe {recipe} in {Path.cwd()}. Name yours: --recipe path/to/recipe.yaml")
    try:
        return tuple(model.name for model in read_recipe(recipe).models)
    except ExporterError as error:
        raise CannotStart(str(error)) from error


async def export_missing(recipe: Path, models_dir: Path, terminal: Terminal, stop: StopRequests) -> None:
    """Export the models that are not in `models_dir`; return early when a stop is asked for.

    Raises:
        ExportFailed: When the exporter ended with an error.
    """
    missing = [model.name for model in read_recipe(recipe).models if published_version(models_dir, model) is None]
    if not missing:
        return
    terminal.note(f"exporting {', '.join(missing)} to {models_dir}; the next start finds what is there")
    child = Child(exporter(recipe, models_dir), relay=None)
    try:
        while not stop.asked.is_set() and not await child.ended_within(0.1):
            pass
        if not stop.asked.is_set() and await child.wait() != 0:
            raise ExportFailed(f"The models of {recipe} could not be exported; the exporter's message is above.")
    finally:
        await child.stop(GRACE_SECONDS, stop.at_once)
