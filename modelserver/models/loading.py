"""Load a version, warm it up, and compare it with its golden vectors. All of this blocks, and runs in a load thread.

Of several engines the first that computes the version's golden vectors is taken, and the last in any case.

The warm-up requests of a version are in ``assets.extra/tf_serving_warmup_requests``: a TFRecord file of
``PredictionLog`` messages. A failing record fails the load: better a version that never starts than one that cannot
answer.
"""

import logging
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

from google.protobuf.message import DecodeError

from microtome.golden import GoldenCheck
from microtome.machine import return_memory
from microtome.tfserving.v1 import serving_pb2 as pb
from modelserver.batching.limits import Batching, BatchLimits
from modelserver.batching.queue import BatchQueue
from modelserver.batching.run import count_rows, run_batch
from modelserver.config.manifest import golden_check, max_batch_size
from modelserver.engines.engine import Engine, LoadedModel
from modelserver.engines.parallelism import LoadAffinity
from modelserver.errors import (
    Absent,
    DataLoss,
    Deviates,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    ServingError,
    Unimplemented,
)
from modelserver.metrics import Metrics
from modelserver.tensors.codec import Array
from modelserver.tensors.signatures import DEFAULT_BOUNDS, DEFAULT_SIGNATURE, Bounds, bind, find_signature

log = logging.getLogger(__name__)

RECORDS = Path("assets.extra", "tf_serving_warmup_requests")
MOST_RECORDS = 1000

UNKNOWN_ROWS = 64
"""Rows of a request to a version without batching whose manifest, if it has one, names no largest batch."""

_REFUSALS = (FailedPrecondition, InvalidArgument, Internal)
"""What another engine may do better. Not what is damaged, nor what lacks memory: another engine takes more of it."""

_VERIFY = "Please verify your warmup data is in TFRecord format."

_CRC32C = list(range(256))
"""The checksum of each byte, by Castagnoli's polynomial, which zlib does not know."""
for _ in range(8):
    _CRC32C = [checksum >> 1 ^ 0x82F63B78 * (checksum & 1) for checksum in _CRC32C]

WarmUp = Callable[[LoadedModel, Path, BatchLimits | None, Bounds], int]
"""Executes the requests of a loaded version in its directory; returns their number, or raises ServingError."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A version that is ready to answer."""

    model: LoadedModel
    limits: BatchLimits | None
    bounds: Bounds = DEFAULT_BOUNDS
    engine: str = ""
    """What computes it, and why."""


@dataclass(frozen=True, slots=True)
class Loader:
    """Loads versions, and warms them up.

    Attributes:
        engines: Execute them; each is tried when those before it do not compute a version.
        warm_up: Runs before they are available; None for no warm-up.
        batching: How each is batched.
        metrics: Counts loads and warm-ups.
        affinity: Pins loads to one core.
        accepted: The deviation from golden vectors that is served although it exceeds a manifest's tolerance.
        bounds: What a request may hold; without rows, as many as its version's largest batch.
        why: Why there is no other engine; empty where there are several.
    """

    engines: Sequence[Engine]
    warm_up: WarmUp | None
    batching: Batching
    metrics: Metrics
    affinity: LoadAffinity = field(default_factory=LoadAffinity)
    accepted: float = 0.0
    bounds: Bounds = DEFAULT_BOUNDS
    why: str = ""

    def load(self, version_dir: Path) -> Loaded:
        """Load one version.

        Raises:
            ServingError: It cannot be loaded, its warm-up failed, or it deviates from its golden vectors, with every
                engine; nothing of it stays in memory.
        """
        started = time.monotonic()
        # What is wrong with files beside the graph is no reason for another engine.
        check = _golden(version_dir)
        self.batching.limits_for(version_dir, 1)
        refusals: list[ServingError] = []
        for engine in self.engines:
            try:
                loaded = self._load(engine, version_dir, check, refusals)
            except Absent as error:
                if not refusals:
                    raise
                self.metrics.loaded(version_dir, None)
                # What the others said counts, with their class: the same error comes again, or may not.
                refusals[-1].message += f" {error.message}"
                raise refusals[-1] from error
            except _REFUSALS as error:
                if engine is self.engines[-1]:
                    raise
                refusals.append(error)
                log.warning("%s is not computed by %s: %s", version_dir, engine.name, error)
            else:
                return_memory()
                log.info("Loaded %s in %.2f s. %s", version_dir, time.monotonic() - started, loaded.engine)
                return loaded
        raise Internal("There is no engine")

    def _load(
        self, engine: Engine, version_dir: Path, check: GoldenCheck | None, refusals: Sequence[ServingError]
    ) -> Loaded:
        """Load one version with one engine, which must prove itself unless it is the last."""
        if check is None and engine is not self.engines[-1]:
            raise FailedPrecondition("It has no golden vectors to prove itself by")
        try:
            limits = self.batching.limits_for(version_dir, engine.threads(version_dir))
            bounds = self._bounds(version_dir, limits)
            # OpenVINO counts its cores during a load, and would continue with one.
            with nullcontext() if engine.name == "openvino" else self.affinity.load():
                model = self._read(engine, version_dir)
                try:
                    # Rows as its queue allows: the records of other exporters may be larger than requests are.
                    self._warm_up(model, version_dir, limits, replace(bounds, rows=None))
                    proved = prove(model, version_dir, check, limits, accepted=self.accepted) if check else ""
                except BaseException:
                    model.close()
                    raise
        except ServingError:
            raise
        except Exception as error:
            log.exception("Loading %s failed", version_dir)
            raise Internal(f"Loading failed: {type(error).__name__}; see the log of the model server") from error
        reasons = [f"not by OpenVINO: {error.message}" for error in refusals] or [
            reason for reason in (self.why, proved) if reason
        ]
        return Loaded(model, limits, bounds, f"{engine.name}: {'; '.join(reasons)}")

    def _bounds(self, version_dir: Path, limits: BatchLimits | None) -> Bounds:
        """Return what a request to this version may hold."""
        if self.bounds.rows is not None:
            return self.bounds
        rows = limits.max_batch_size if limits else max_batch_size(version_dir) or UNKNOWN_ROWS
        return replace(self.bounds, rows=rows)

    def _read(self, engine: Engine, version_dir: Path) -> LoadedModel:
        began = time.monotonic()
        try:
            model = engine.load(version_dir)
        except BaseException as error:
            if engine is self.engines[-1] or not isinstance(error, _REFUSALS):
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
    count, warmed = 0, set[Hashable]()
    for count, record in enumerate(_records(path.read_bytes()), start=1):
        if count > MOST_RECORDS:
            raise InvalidArgument(f"Number of warmup records exceeds the maximum ({MOST_RECORDS}) at {path}")
        try:
            recorded = pb.PredictionLog.FromString(record)
        except DecodeError as error:
            raise DataLoss(f"corrupted record {count}. {_VERIFY}") from error
        for kind, part, fetches in _parts(model, recorded, limits, bounds):
            if kind not in warmed:
                for _ in range(max(iterations, 1)):
                    run_batch(model, [part], fetches, limits)
                warmed |= {kind} if limits else set()
    return count


def _records(raw: bytes) -> Iterator[bytes]:
    """Read a TFRecord file: of each record its length, the length's checksum, the record and its checksum.

    https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details

    Raises:
        DataLoss: It is no such file.
    """
    at = 0
    while at < len(raw):
        head = raw[at : at + 12]
        size = int.from_bytes(head[:8], "little")
        record = raw[at + 12 : at + 12 + size]
        checksum = raw[at + 12 + size : at + 16 + size]
        whole = len(head) == 12 and len(record) == size and len(checksum) == 4
        if not whole or _masked_crc32c(head[:8]) != head[8:] or _masked_crc32c(record) != checksum:
            raise DataLoss(f"corrupted record at {at}. {_VERIFY}")
        yield record
        at += 16 + size


def _masked_crc32c(data: bytes) -> bytes:
    checksum = 0xFFFFFFFF
    for byte in data:
        checksum = _CRC32C[(checksum ^ byte) & 0xFF] ^ checksum >> 8
    checksum ^= 0xFFFFFFFF
    return ((checksum >> 15 | checksum << 17) + 0xA282EAD8 & 0xFFFFFFFF).to_bytes(4, "little")


def _golden(version_dir: Path) -> GoldenCheck | None:
    """Read a version's golden vectors; version 1 of manifests has none.

    Raises:
        Deviates: They cannot be read.
    """
    try:
        return golden_check(version_dir)
    except ValueError as error:
        raise Deviates(f"The manifest of {version_dir} has no golden vectors that can be read: {error}") from error


def prove(
    model: LoadedModel,
    version_dir: Path,
    check: GoldenCheck,
    limits: BatchLimits | None = None,
    *,
    accepted: float = 0.0,
) -> str:
    """Compare a version with the golden vectors of its manifest, alone and in a batch.

    Args:
        model: The version, loaded.
        version_dir: Its directory, for the log.
        check: Its golden vectors.
        limits: How its requests are batched.
        accepted: The deviation that is served although it exceeds the tolerance.

    Returns:
        What was found, in words.

    Raises:
        Deviates: It computes something else.
        ServingError: It cannot be run.
    """
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
        return f"its deviation from the golden vectors is accepted, {said}"
    return f"it computes the golden vectors, deviation {max(deviations.values()):.1e}"


def measured(model: LoadedModel, check: GoldenCheck, limits: BatchLimits | None = None) -> dict[str, float]:
    """Return how much each output deviates from its golden vectors, relative L2.

    Raises:
        ServingError: The model cannot be run.
    """
    signature = find_signature(model.signatures, DEFAULT_SIGNATURE)
    (taken,) = signature.inputs.values()
    # In the order of requests, which is that of the warm-up: another one would be another copy of the weights.
    names = sorted(check.tolerances)
    fetches = [signature.outputs[name].name for name in names]
    answers = []
    for inputs in check.requests:
        (found,) = run_batch(model, [{taken.name: inputs}], fetches, limits)
        answers.append(dict(zip(names, found, strict=True)))
    return check.deviations(answers)


def _parts(
    model: LoadedModel, record: pb.PredictionLog, limits: BatchLimits | None, bounds: Bounds
) -> Iterator[tuple[Hashable, Mapping[str, Array], list[str]]]:
    """Yield the parts in which a record's request would be served, with its outputs; those of one kind run alike."""
    kind = record.WhichOneof("log_type")
    if kind != "predict_log":
        raise Unimplemented(f"Unsupported log_type for warmup: {kind}")
    request = record.predict_log.request
    signature = find_signature(model.signatures, request.model_spec.signature_name)
    feeds, outputs = bind(signature, request.inputs, request.output_filter, bounds)
    fetches = list(outputs.values())
    for size in BatchQueue(limits).admit(count_rows(feeds)) if limits else [None]:
        part = feeds if size is None else {name: array[:size] for name, array in feeds.items()}
        shapes = tuple((name, array.shape) for name, array in part.items())
        yield (shapes, *fetches), part, fetches
