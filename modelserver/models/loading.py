"""Load a version, warm it up, and compare it with its golden vectors. All of this blocks, and runs in a load thread.

The warm-up requests of a version are in ``assets.extra/tf_serving_warmup_requests``: a TFRecord file of
``PredictionLog`` messages. A failing record fails the load: better a version that never starts than one that cannot
answer.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from microtome.golden import GoldenCheck
from modelserver.batching.limits import Batching, BatchLimits
from modelserver.batching.queue import BatchQueue
from modelserver.batching.run import count_rows, run_batch
from modelserver.config.manifest import golden_check, max_batch_size
from modelserver.engines.engine import Engine, LoadedModel
from modelserver.engines.parallelism import LoadAffinity
from modelserver.errors import DataLoss, Deviates, Internal, InvalidArgument, ServingError, Unimplemented
from modelserver.metrics import Metrics
from modelserver.tensors.signatures import DEFAULT_BOUNDS, DEFAULT_SIGNATURE, Bounds, bind, find_signature

log = logging.getLogger(__name__)

RECORDS = Path("assets.extra", "tf_serving_warmup_requests")
MOST_RECORDS = 1000

UNKNOWN_ROWS = 64
"""Rows of a request to a version without batching whose manifest, if it has one, names no largest batch."""

WarmUp = Callable[[LoadedModel, Path, BatchLimits | None, Bounds], int]
"""Executes the requests of a loaded version in its directory; returns their number, or raises ServingError."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A version that is ready to answer."""

    model: LoadedModel
    limits: BatchLimits | None
    bounds: Bounds = DEFAULT_BOUNDS


@dataclass(frozen=True, slots=True)
class Loader:
    """Loads versions, and warms them up.

    Attributes:
        engine: Executes them.
        warm_up: Runs before they are available; None for no warm-up.
        batching: How each is batched.
        metrics: Counts loads and warm-ups.
        affinity: Pins loads to one core.
        accepted: The deviation from golden vectors that is served although it exceeds a manifest's tolerance.
        bounds: What a request may hold; without rows, as many as its version's largest batch.
    """

    engine: Engine
    warm_up: WarmUp | None
    batching: Batching
    metrics: Metrics
    affinity: LoadAffinity = field(default_factory=LoadAffinity)
    accepted: float = 0.0
    bounds: Bounds = DEFAULT_BOUNDS

    def load(self, version_dir: Path) -> Loaded:
        """Load one version.

        Raises:
            ServingError: It cannot be loaded, its warm-up failed, or it deviates from its golden vectors; nothing of it
                stays in memory.
        """
        started = time.monotonic()
        try:
            limits = self.batching.limits_for(version_dir, self.engine.threads(version_dir))
            bounds = self._bounds(version_dir, limits)
            with self.affinity.load():
                model = self._read(version_dir)
                try:
                    # Rows as its queue allows: the records of other exporters may be larger than requests are.
                    self._warm_up(model, version_dir, limits, replace(bounds, rows=None))
                    prove(model, version_dir, limits, accepted=self.accepted)
                except BaseException:
                    model.close()
                    raise
        except ServingError:
            raise
        except Exception as error:
            log.exception("Loading %s failed", version_dir)
            raise Internal(f"Loading failed: {type(error).__name__}; see the log of the model server") from error
        log.info("Loaded %s in %.2f s", version_dir, time.monotonic() - started)
        return Loaded(model, limits, bounds)

    def _bounds(self, version_dir: Path, limits: BatchLimits | None) -> Bounds:
        """Return what a request to this version may hold."""
        if self.bounds.rows is not None:
            return self.bounds
        rows = limits.max_batch_size if limits else max_batch_size(version_dir) or UNKNOWN_ROWS
        return replace(self.bounds, rows=rows)

    def _read(self, version_dir: Path) -> LoadedModel:
        began = time.monotonic()
        try:
            model = self.engine.load(version_dir)
        except BaseException:
            self.metrics.loaded(version_dir, None)
            raise
        self.metrics.loaded(version_dir, time.monotonic() - began)
        return model

    def _warm_up(self, model: LoadedModel, version_dir: Path, limits: BatchLimits | None, bounds: Bounds) -> None:
        began = time.monotonic()
        if self.warm_up and (count := self.warm_up(model, version_dir, limits, bounds)):
            seconds = time.monotonic() - began
            self.metrics.warmed_up(version_dir, seconds)
            log.info("Warmed up %s with %d records in %.2f s", version_dir, count, seconds)


def warm_up(
    model: LoadedModel,
    version_dir: Path,
    limits: BatchLimits | None = None,
    bounds: Bounds = DEFAULT_BOUNDS,
    *,
    iterations: int = 1,
) -> int:
    """Execute every warm-up record; a missing file is fine.

    Args:
        model: The version, loaded.
        version_dir: Its directory.
        limits: How its requests are batched; warm-up requests are padded and refused like others.
        bounds: What a request may hold.
        iterations: Number of executions of each record.

    Returns:
        The number of records.

    Raises:
        ServingError: A record failed, or the file is damaged or too long.
    """
    path = version_dir / RECORDS
    if not path.is_file():
        return 0
    count = 0
    try:
        for count, record in enumerate(tf.compat.v1.io.tf_record_iterator(str(path)), start=1):
            if count > MOST_RECORDS:
                raise InvalidArgument(f"Number of warmup records exceeds the maximum ({MOST_RECORDS}) at {path}")
            for _ in range(max(iterations, 1)):
                _execute(model, prediction_log_pb2.PredictionLog.FromString(record), limits, bounds)
    except tf.errors.DataLossError as error:
        raise DataLoss(f"{error.message}. Please verify your warmup data is in TFRecord format.") from error
    return count


def prove(model: LoadedModel, version_dir: Path, limits: BatchLimits | None = None, *, accepted: float = 0.0) -> None:
    """Compare a version with the golden vectors of its manifest, alone and in a batch; version 1 has none.

    Args:
        model: The version, loaded.
        version_dir: Its directory.
        limits: How its requests are batched.
        accepted: The deviation that is served although it exceeds the tolerance.

    Raises:
        Deviates: It computes something else.
        ServingError: It cannot be run.
    """
    try:
        check = golden_check(version_dir)
    except ValueError as error:
        raise Deviates(f"The manifest of {version_dir} has no golden vectors that can be read: {error}") from error
    if check is None:
        return
    deviations = measured(model, check, limits)
    beyond = check.beyond(deviations)
    said = ", ".join(f"{name} by {found:.2g} of {check.tolerances[name]:g}" for name, found in beyond.items())
    if any(not found <= accepted for found in beyond.values()):
        raise Deviates(
            f"It deviates from its golden vectors, relative L2: {said}. The file, the engine or the machine's "
            "arithmetic is not what it was exported for; --accept_deviation serves it all the same"
        )
    if beyond:
        log.warning("%s deviates from its golden vectors, which is accepted: %s", version_dir, said)
    else:
        log.info("%s equals its golden vectors: deviation %.1e", version_dir, max(deviations.values()))


def measured(model: LoadedModel, check: GoldenCheck, limits: BatchLimits | None = None) -> dict[str, float]:
    """Return how much each output deviates from its golden vectors, relative L2.

    Raises:
        ServingError: The model cannot be run.
    """
    signature = find_signature(model.signatures, DEFAULT_SIGNATURE)
    (images,) = signature.inputs.values()
    # In the order of requests, which is that of the warm-up: another one would be another copy of the weights.
    names = sorted(check.tolerances)
    fetches = [signature.outputs[name].name for name in names]
    answers = []
    for pixels in check.requests:
        (found,) = run_batch(model, [{images.name: pixels}], fetches, limits)
        answers.append(dict(zip(names, found, strict=True)))
    return check.deviations(answers)


def _execute(
    model: LoadedModel, record: prediction_log_pb2.PredictionLog, limits: BatchLimits | None, bounds: Bounds
) -> None:
    kind = record.WhichOneof("log_type")
    if kind != "predict_log":
        raise Unimplemented(f"Unsupported log_type for warmup: {kind}")
    request = record.predict_log.request
    signature = find_signature(model.signatures, request.model_spec.signature_name)
    feeds, outputs = bind(signature, request.inputs, request.output_filter, bounds)
    if limits:
        BatchQueue(limits).admit(count_rows(feeds))
    run_batch(model, [feeds], list(outputs.values()), limits)
