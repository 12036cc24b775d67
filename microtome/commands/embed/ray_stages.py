"""What Ray's workers do: decode, infer, write. Between these stages pass Arrow tables, with a row for each image.

Images that fail are rows with an error. So is what concerns every image: Ray would start an actor that raises again and
again, and wrap what it said.
"""

import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import orjson

from microtome.client.client import Client
from microtome.client.errors import MicrotomeError
from microtome.client.images import Text, encode_all
from microtome.client.options import EmbedOptions
from microtome.client.results import ModelVersion
from microtome.commands.embed import shards, stores
from microtome.commands.embed.engine import vector_options
from microtome.commands.embed.errors import EmbedError
from microtome.commands.embed.journal import Row, described, together
from microtome.commands.embed.keyed_images import KeyedImage, Rules
from microtome.commands.embed.runner import error_line, printable, vector_table

BLOCK_BYTES = 32 << 20
"""Of pixels that pass from one stage to the next at a time."""

_ROWS = 128
"""Images that a task passes on at a time, unless they are too large for a block."""

_FATAL = "!"
"""In place of an error's kind: what concerns every image, and ends the run."""


@dataclass(frozen=True, slots=True)
class Job:
    """What workers know of a run.

    Attributes:
        saved_model: directory or address of the version; "" to ask the gateway at `url`.
        fingerprint: of the SavedModel.
        pixels: bytes of a decoded image; 0 to ask the gateway.
        num_gpus: of an actor; below 0 for one if the cluster has any.
        batch: images that are computed together.
        folder: from which relative paths lead; "" where there are none.
    """

    out: str
    rules: Rules
    wanted: EmbedOptions
    saved_model: str
    fingerprint: str
    pixels: int
    num_gpus: float
    batch: int
    url: str
    api_key: str | None
    ca_file: str | None
    folder: str

    @property
    def rows(self) -> int:
        """Images that a task that decodes passes on at a time: a power of two."""
        fit = max(1, BLOCK_BYTES // max(1, self.pixels))
        return min(_ROWS, 1 << (fit.bit_length() - 1))

    def own(self, *names: str) -> str:
        """Return the name of a file beside the shards."""
        return stores.joined(self.out, shards.OWN, *names)


def asked(wanted: EmbedOptions) -> dict[str, Any]:
    """Return the options by which two runs must agree."""
    return {name: value for name, value in asdict(wanted).items() if name not in {"cache", "priority", "classes"}}


def decode(batch: Any, job: Job) -> Iterator[Any]:  # noqa: ANN401, Arrow tables
    """Read a piece of the plan and, with a SavedModel, decode it: pixels, or else the files' bytes, or texts."""
    number, done = batch.column("piece")[0].as_py(), orjson.loads(batch.column("done")[0].as_py())
    skipped = {place for first, end in done for place in range(first, end)}
    held: list[tuple[int, KeyedImage]] = []
    place = 0
    try:
        if job.folder:
            os.chdir(job.folder)
        for image in shards.read_piece(job.own("plan.arrow"), number).images(job.rules):
            if len(held) == job.rows:
                yield _decoded(number, held, job)
                held = []
            if place not in skipped:
                held.append((place, image))
            place += 1
        yield _decoded(number, held, job, end=place)
    except (EmbedError, OSError) as error:
        known = " All machines must see local paths under the same names." if isinstance(error, OSError) else ""
        yield _note(number, job, kind=_FATAL, detail=f"{error}{known}")


def _decoded(number: int, held: Sequence[tuple[int, KeyedImage]], job: Job, *, end: int = -1) -> Any:  # noqa: ANN401
    """Return images as rows; the last one tells how many the piece has."""
    if not held:
        return _note(number, job, end=end)
    found: list[Any] = encode_all([image for _, image in held])
    if spec := _input(job.saved_model):
        from microtome.commands.embed.saved_model import decoded  # noqa: PLC0415, it needs the server's packages

        found = [decoded(body, spec) for body in found]
    nothing = bytes(job.pixels)
    bodies = [nothing if isinstance(one, MicrotomeError) else one.tobytes() if spec else one for one in found]
    errors = [(one.kind, printable(str(one))) if isinstance(one, MicrotomeError) else ("", "") for one in found]
    keys = [image.key.encode("utf-8", "surrogateescape") for _, image in held]
    return _rows(number, [place for place, _ in held], keys, errors, bodies, end, job.pixels)


def _note(number: int, job: Job, *, end: int = -1, kind: str = "", detail: str = "") -> Any:  # noqa: ANN401
    """Return a row that is no image: an error, or how many images the piece has."""
    return _rows(number, [-1], [b""], [(kind, detail)], [bytes(job.pixels)], end, job.pixels)


def _rows(  # noqa: PLR0913, PLR0917
    number: int,
    places: list[int],
    keys: list[bytes],
    errors: list[tuple[str, str]],
    bodies: list[bytes | Text],
    end: int,
    size: int,
) -> Any:  # noqa: ANN401
    pa, ends = stores.pyarrow("pyarrow"), [-1] * (len(places) - 1) + [end]
    plain = [body.text.encode() if isinstance(body, Text) else body for body in bodies]
    return pa.table(
        {
            "piece": pa.array([number] * len(places), pa.int64()),
            "place": pa.array(places, pa.int64()),
            "end": pa.array(ends, pa.int64()),
            "key": pa.array(keys, pa.binary()),
            "kind": pa.array([kind for kind, _ in errors], pa.string()),
            "detail": pa.array([detail for _, detail in errors], pa.string()),
            "text": pa.array([isinstance(body, Text) for body in bodies], pa.bool_()),
            "body": pa.array(plain, pa.binary(size) if size else pa.large_binary()),
        }
    )


@lru_cache(maxsize=4)
def _input(directory: str) -> Any:  # noqa: ANN401, the manifest's
    if not directory:
        return None
    from microtome.commands.embed.saved_model import local_version, manifest  # noqa: PLC0415

    return manifest(local_version(directory)).pixels


class Infer:
    """An actor: it holds the SavedModel, or asks the gateway and waits for it however long it is away."""

    def __init__(self, job: Job) -> None:
        self._job, self._problem = job, ""
        self._wanted = job.wanted
        try:
            if job.saved_model:
                self._load()
            else:
                self._client = Client(job.url, api_key=job.api_key, ca_file=job.ca_file, deadline=None, attempts=None)
        except (EmbedError, MicrotomeError, ImportError) as error:
            # Told with the next rows, since Ray would start an actor that raises again and again.
            self._problem = str(error)

    def __call__(self, batch: Any) -> Any:  # noqa: ANN401, Arrow tables
        """Embed the rows of a batch that have an image."""
        pa = stores.pyarrow("pyarrow")
        kinds, details = batch.column("kind").to_pylist(), batch.column("detail").to_pylist()
        places = batch.column("place").to_pylist()
        sound = [row for row, place in enumerate(places) if place >= 0 and not kinds[row]]
        vectors: list[list[bytes]] = [[]] * len(places)
        models = [""] * len(places)
        try:
            if self._problem:
                raise EmbedError(self._problem)  # noqa: TRY301
            for row, found, model in self._embedded(batch, sound) if sound else ():
                if isinstance(found, MicrotomeError):
                    kinds[row], details[row] = found.kind, printable(str(found))
                else:
                    vectors[row], models[row] = found, model
        except (EmbedError, MicrotomeError) as error:
            kinds, details = [_FATAL] * len(places), [str(error)] * len(places)
        columns = {name: batch.column(name) for name in ("piece", "place", "end", "key")}
        columns |= {"kind": pa.array(kinds, pa.string()), "detail": pa.array(details, pa.string())}
        columns |= {"model": pa.array(models, pa.string()), "vectors": pa.array(vectors, pa.list_(pa.large_binary()))}
        return pa.table(columns)

    def _load(self) -> None:
        from microtome.commands.embed.saved_model import SavedModel, local_version  # noqa: PLC0415, TensorFlow

        job = self._job
        # One thread for each: there are as many actors as cores.
        threads = 0 if job.num_gpus else 1
        self._model = SavedModel(local_version(job.saved_model), job.wanted, threads=threads, gpu=job.num_gpus > 0)
        if self._model.model.fingerprint != job.fingerprint:
            raise EmbedError(f"{job.saved_model} is another model on a worker than where the run was started.")

    def _embedded(self, batch: Any, sound: Sequence[int]) -> Iterator[tuple[int, Any, str]]:  # noqa: ANN401
        bodies = batch.column("body").combine_chunks()
        if not self._job.saved_model:
            texts = batch.column("text").to_pylist()
            images = [bodies[row].as_py() for row in sound]
            images = [Text(body.decode()) if texts[row] else body for row, body in zip(sound, images, strict=True)]
            found = self._client.embed_many(images, concurrency=1, batch=len(images), **vector_options(self._wanted))
            for row, outcome in zip(sound, found, strict=True):
                names = outcome.vectors
                yield row, outcome.error or _named(names), _model(outcome.model)
            return
        height, width, channels = self._model.input.shape
        pixels = np.frombuffer(bodies.buffers()[1], np.uint8)[bodies.offset * height * width * channels :]
        pixels = pixels[: len(bodies) * height * width * channels].reshape(-1, height, width, channels)
        matrices = self._model.vectors(pixels if len(sound) == len(pixels) else pixels[list(sound)])
        model = _model(self._model.model)
        for place, row in enumerate(sound):
            yield row, _named({name: matrix[place] for name, matrix in matrices.items()}), model


def _named(vectors: Mapping[str, Any]) -> list[bytes]:
    """Return names and vectors as bytes, in turn."""
    return [part for name, vector in vectors.items() for part in (name.encode(), vector.tobytes())]


def _model(model: ModelVersion | None) -> str:
    return orjson.dumps(described(model)).decode() if model else ""


def write(batch: Any, job: Job) -> Any:  # noqa: ANN401, Arrow tables
    """Write a shard, and return its receipt."""
    pa = stores.pyarrow("pyarrow")
    try:
        receipt = _written(batch, job)
    except EmbedError as error:
        receipt = orjson.dumps({"fatal": str(error)})
    return pa.table({"receipt": pa.array([receipt], pa.binary())})


def _written(batch: Any, job: Job) -> bytes:  # noqa: ANN401
    # By place: a task that Ray ran twice may have passed a row on twice.
    found = {(row["piece"], row["place"]): row for row in batch.to_pylist()}
    rows = [found[place] for place in sorted(found)]
    fatal = next((row["detail"] for row in rows if row["kind"] == _FATAL), None)
    if fatal is not None:
        return orjson.dumps({"fatal": fatal})
    model: Mapping[str, Any] | None = None
    for one in sorted({row["model"] for row in rows} - {""}):
        model = together(model, orjson.loads(one))
    images = [row for row in rows if row["place"] >= 0]
    good, bad = list[Row](), list[Row]()
    for row in images:
        key, parts = row["key"].decode("utf-8", "surrogateescape"), row["vectors"]
        if row["kind"]:
            bad.append(Row(key, {}, (row["kind"], row["detail"])))
        else:
            good.append(Row(key, {name.decode(): body for name, body in zip(parts[::2], parts[1::2], strict=True)}))
    name = f"vectors-{uuid.uuid4().hex}"
    if good:
        about = {"model": model, "asked": asked(job.wanted)}
        with stores.whole(job.own("unfinished", f"{name}.parquet")) as file:
            stores.pyarrow().write_table(vector_table(good, job.wanted.dtype, about), file)
    if bad:
        stores.write(job.own("unfinished", f"{name}.jsonl"), b"".join(map(error_line, bad)))
    if good and not stores.is_address(job.out):
        stores.sync_folder(job.own("unfinished"))
    held: dict[int, list[shards.Range]] = {}
    for row in images:
        ranges = held.setdefault(row["piece"], [])
        if ranges and ranges[-1][1] == row["place"]:
            ranges[-1] = (ranges[-1][0], row["place"] + 1)
        else:
            ranges.append((row["place"], row["place"] + 1))
    ends = {row["piece"]: row["end"] for row in rows if row["end"] >= 0}
    return shards.Receipt(name, len(good), len(bad), held, ends, model or {}).json()
