"""A look at one layer: one pass over the photos, then the figure of its strongest channels, and heat maps."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from exporter.errors import ImpossibleOption
from exporter.features.store import FeatureStore, State, extract
from exporter.head.pooling import pool
from exporter.look.figure import Cell, figure
from exporter.look.heat import Compared, compare
from exporter.look.subject import Passed, Request, Subject
from exporter.recipe.files import file_digest
from exporter.recipe.images import read_pixels
from exporter.recipe.preprocessing import recorded
from exporter.runtime.memory import release
from exporter.runtime.terminal import counted, stage, warn
from exporter.savedmodel.fingerprint import fingerprint
from exporter.savedmodel.freezing import FrozenGraph, freeze_function


@dataclass(frozen=True, slots=True)
class Look:
    """What a look shows.

    Attributes:
        subject: The layer.
        request: What was asked for.
        photos: How many took part.
        left_out: Names of photos that did not, with the reason.
        channels: Index of each shown channel with its cells, the strongest first.
        silent: Channels that no photo excites.
        compared: Heat maps by photo.
    """

    subject: Subject
    request: Request
    photos: int
    left_out: list[tuple[str, str]]
    channels: list[tuple[int, list[Cell]]]
    silent: int
    compared: list[Compared]


def look(subject: Subject, request: Request) -> Look:
    """Look at a layer.

    Raises:
        ImpossibleOption: No photo can be decoded, or the disk has too little room.
    """
    photos, left_out = _distinct(request)
    with stage(f"Cutting {subject.name} at {request.layer}"):
        graph = peaks_graph(subject, request.pooling)
    digests = list(photos.values())
    files = list(photos)
    print_ = fingerprint(graph, subject.pixels)
    names = json.dumps([subject.built.row.name, recorded(subject.pixels), request.layer, request.pooling])
    folder = request.out.with_suffix(".features") / hashlib.sha256(names.encode()).hexdigest()[:16]
    channels = int(subject.tensor.shape[-1])
    lengths = {"peak": channels, "place": channels, "vector": _vector_length(subject, request.pooling)}
    head = {"fingerprint": print_, "photos": digests}
    with FeatureStore.opened(folder, lengths, len(files), head) as store:
        read = lambda index: read_pixels(files[index], subject.pixels)  # noqa: E731
        problems = extract(graph, read, store, f"{subject.name}: looking through the photos")
        for index, problem in sorted(problems.items()):
            name = files[index].relative_to(request.folder).as_posix()
            left_out.append((name, problem.split("Received: ")[-1].removeprefix(f"{files[index]}: ")))
        for name, why in left_out:
            warn(f"left out: {name}: {why}")
        there = np.flatnonzero(store.states == State.DONE)
        if not len(there):
            raise ImpossibleOption(
                f"Expected photos that can be decoded in {request.folder}. Received: none of them can."
            )
        passed = Passed(files, [f"{print_}{digest}" for digest in digests], there, store)
        shown, silent = figure(subject, passed, request.channels) if request.channels else ([], 0)
        compared = list(compare(subject, passed, request)) if request.heat else []
    release()
    return Look(subject, request, len(there), left_out, shown, silent, compared)


def peaks_graph(subject: Subject, pooling: str) -> FrozenGraph:
    """Freeze a graph from pixels to each channel's largest activation, its place, and the pooled vector."""
    part = keras.Model(subject.network.model.inputs[0], subject.tensor)
    _, height, width, channels = subject.tensor.shape

    def peaks(images: tf.Tensor) -> dict[str, tf.Tensor]:
        maps = tf.ensure_shape(part(subject.scaled(images), training=False), [None, height, width, channels])
        flat = tf.reshape(maps, [-1, height * width, channels])
        return {
            "peak": tf.reduce_max(flat, axis=1),
            "place": tf.cast(tf.argmax(flat, axis=1), tf.float32),  # exact up to 16 million positions
            "vector": pool(maps, pooling),
        }

    spec = tf.TensorSpec([None, *subject.pixels.shape], tf.uint8, name="images")
    return FrozenGraph(*freeze_function(peaks, [spec]))


def _distinct(request: Request) -> tuple[dict[Path, str], list[tuple[str, str]]]:
    """Return the digest of each photo, without copies of a file, and what is left out."""
    first: dict[str, Path] = {}
    left_out = []
    for path in counted(request.photos, len(request.photos), "Reading the photos", delay=1):
        try:
            digest = file_digest(path)
        except OSError as error:
            raise ImpossibleOption(f"Expected photos that can be read. Received: {error}.") from error
        if digest in first:
            name, other = (one.relative_to(request.folder).as_posix() for one in (path, first[digest]))
            left_out.append((name, f"a copy of {other}"))
        first.setdefault(digest, path)
    return {path: digest for digest, path in first.items()}, left_out


def _vector_length(subject: Subject, pooling: str) -> int:
    _, height, width, channels = subject.tensor.shape
    return int(np.prod(pool(tf.zeros((1, height, width, channels)), pooling).shape))
