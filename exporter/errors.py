"""The exporter's errors.

* ExporterError
  x RecipeError            the recipe must change
    + RecipeUnreadable     no such file, or not YAML
    + RecipeInvalid        YAML, but not a recipe: carries every problem found
    + UnknownModel         `--model` names no model of the recipe
    + CalibrationImageBroken   an image of the calibration folder cannot be decoded
  x CutError               the backbone has no such cut
    + UnknownBackbone
    + UnknownLayer
    + AmbiguousLayer       the layer is called more than once, so its name means several tensors
    + ImpossiblePooling    the layer's output has no space to pool over, or no fixed shape
    + ImpossibleProjection more dimensions are wanted than images or features allow
    + ImpossibleHead       a head's file is damaged, or made for vectors of another length
    + ImpossibleInput      the backbone cannot be built for this input size
    + ImpossibleModel      the user's own file, function or preset is not there, or not a model that can be cut
    + ImpossibleSplit      the points to split at do not divide the network
  x WeightsError           the weights cannot be had
    + WeightsUnavailable   neither on this machine nor downloadable
    + WeightsFileBroken    the file is truncated, hostile, or of another kind
    + ImpossibleWeights    this kind of backbone has no such weights
  x NoVersion              a directory is not a version that the exporter wrote
  x ImpossibleOption       an option of a command has a value that it cannot have
  x CannotPublish          the models directory cannot be written
  x VerificationFailed     what was written is not what Keras computes; nothing is published

Every message says what was expected, what was received, and what to do.
"""

import difflib
from collections.abc import Iterable, Sequence


class ExporterError(Exception):
    """A failure that the user sees as one message instead of a traceback."""


class RecipeError(ExporterError):
    """The recipe must change."""


class RecipeUnreadable(RecipeError):
    """There is no such file, or it is not YAML."""


class RecipeInvalid(RecipeError):
    """The file is YAML but not a recipe.

    Attributes:
        problems: One line for each problem, in the order of the file.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(problems))


class UnknownModel(RecipeError):
    """The recipe has no model of that name."""


class CalibrationImageBroken(RecipeError):
    """An image of the calibration folder cannot be decoded."""


class CutError(ExporterError):
    """The backbone has no such cut."""


class UnknownBackbone(CutError):
    """No row of the backbone table has that name."""


class UnknownLayer(CutError):
    """The backbone has no layer, call or output of that name."""


class AmbiguousLayer(CutError):
    """The layer is called more than once, so its bare name means several tensors."""


class ImpossiblePooling(CutError):
    """The layer's output cannot be pooled as asked."""


class ImpossibleClasses(CutError):
    """The layer is no classifier, or has another number of classes than there are labels."""


class ImpossibleProjection(CutError):
    """More dimensions are wanted than the calibration images or the features allow."""


class ImpossibleHead(CutError):
    """A head's file is damaged, or made for vectors of another length or other classes."""


class ImpossibleInput(CutError):
    """The backbone cannot be built for this input size."""


class ImpossibleModel(CutError):
    """The user's own file, function or preset is not there, or not a model that can be cut."""


class ImpossibleSplit(CutError):
    """The points to split at do not divide the network."""


class WeightsError(ExporterError):
    """The weights cannot be had."""


class WeightsUnavailable(WeightsError):
    """The weights are neither on this machine nor downloadable."""


class WeightsFileBroken(WeightsError):
    """The weights file is truncated, hostile, or of another kind."""


class ImpossibleWeights(WeightsError):
    """This kind of backbone has no such weights."""


class NoVersion(ExporterError):
    """A directory is not a version that the exporter wrote."""


class ImpossibleOption(ExporterError):
    """An option of a command has a value that it cannot have."""


class CannotPublish(ExporterError):
    """The models directory cannot be written."""


class VerificationFailed(ExporterError):
    """A written version does not compute what Keras computes."""


def nearest(name: str, names: Iterable[str]) -> str:
    """Return the three names most similar to `name`, ignoring case, as the end of a message."""
    by_folded = {known.casefold(): known for known in names}
    close = difflib.get_close_matches(name.casefold(), by_folded, n=3, cutoff=0.5)
    return f"Nearest: {', '.join(by_folded[folded] for folded in close) or 'none'}."


def first_line(error: Exception) -> str:
    """Return the first line of an exception's message, or its type without one."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
