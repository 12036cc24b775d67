"""Fine-tune a backbone: its last layers at a low rate, after its head; resumable, and the best epoch is kept.

As Keras' guide to transfer learning has it: the head is fitted to convergence on frozen features first, normalisations
stay in inference mode also where their scales are trained, and the rate is low. From random weights all of that is
moot: everything is trained, normalisations in training mode, at a higher rate.
"""

import contextlib
import hashlib
import json
import time
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from exporter.head.scaling import scale
from exporter.recipe.backbones import Scaling
from exporter.recipe.images import read_pixels
from exporter.runtime.terminal import say, warn
from exporter.train.calibration import log_loss
from exporter.train.material import altered
from exporter.train.tunable import Tunable
from microtome.machine import cores
from microtome.manifest import InputSpec

STATE, BEST = "fine_tuning.npz", "fine_tuning_best.npz"
LOW_RATE, SCRATCH_RATE = 1e-5, 1e-3
_PATIENCE = 3
_JITTER = 0.2
_MOST_KEPT = 1 << 29
"""Bytes of decoded photos that stay in memory between epochs."""
_GREY = np.array([0.299, 0.587, 0.114], np.float32)

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Tuning:
    """How to fine-tune.

    Attributes:
        unfreeze: What to train: as `exporter.train.tunable.first_unfrozen` has it.
        epochs: At most.
        rate: Of learning, at first; it falls to 0 as a cosine.
        batch: Photos of a step.
        scratch: Whether all is trained from random weights.
        device: Of TensorFlow, such as `/CPU:0`.
    """

    unfreeze: str
    epochs: int = 10
    rate: float = LOW_RATE
    batch: int = 16
    scratch: bool = False
    device: str = "/CPU:0"


@dataclass(frozen=True, slots=True)
class Photos:
    """Photos to train on or to stop by.

    Attributes:
        paths: Their files.
        labels: int [N].
        weights: float [N].
    """

    paths: Sequence[Path]
    labels: Array
    weights: Array


@dataclass(frozen=True, slots=True)
class Epoch:
    """What an epoch reached: mean loss on its photos, and loss and accuracy on those that stop it; 0 is the head's."""

    number: int
    loss: float | None
    stop_loss: float
    stop_accuracy: float


@dataclass(slots=True)
class Progress:
    """How far a training is.

    Attributes:
        epochs: What was reached.
        interrupted: Whether Ctrl-C ended it.
        resumed: The epoch after which an earlier run had ended; 0 for none.
        expected: Seconds that it was expected to take.
    """

    epochs: list[Epoch] = field(default_factory=list)
    interrupted: bool = False
    resumed: int = 0
    expected: float = 0.0

    @property
    def best(self) -> Epoch:
        """The epoch that is kept."""
        return min(self.epochs, key=lambda epoch: (epoch.stop_loss, epoch.number))


class Trainer:
    """Trains a model whose layers have been frozen and unfrozen."""

    def __init__(  # noqa: PLR0913, PLR0917 -- a model, its photos and how
        self, tunable: Tunable, pixels: InputSpec, scaling: Scaling, tuning: Tuning, out: Path, seed: int
    ) -> None:
        self._model, self._pixels, self._scaling = tunable.model, pixels, scaling
        self._tuning, self._out, self._seed = tuning, out, seed
        self._decoded: dict[Path, Array] = {}
        self._pool = ThreadPoolExecutor(cores())
        chosen = self._model.variables if tuning.scratch else self._model.trainable_variables
        self._variables = list(chosen)
        self._optimizer = keras.optimizers.Adam(tuning.rate)
        self._optimizer.build(self._model.trainable_variables)
        self._train_step, self._answer_step = tf.function(self._step), tf.function(self._answer)

    def train(self, photos: Photos, stop: Photos, identity: object) -> Progress:
        """Train until the photos that stop it get no better; the model has the best epoch's weights then.

        Args:
            photos: To train on.
            stop: To stop by.
            identity: All that decides the result; a run that was killed is resumed only where it is the same.
        """
        digest = hashlib.sha256(
            json.dumps([identity, asdict(self._tuning), self._seed, self._model.count_params()]).encode()
        ).hexdigest()
        progress = Progress()
        with tf.device(self._tuning.device):
            if not self._resume(digest, progress):
                progress.epochs.append(self._epoch(0, None, stop))
                self._keep(self._out / BEST, digest, progress, optimizer=False)
                self._keep(self._out / STATE, digest, progress)
            steps = -(-len(photos.paths) // self._tuning.batch)
            left = self._tuning.epochs - progress.epochs[-1].number
            progress.expected = left * self._seconds(photos, steps, len(stop.paths))
            say(
                f"Fine-tuning: {left} epochs of {steps} steps, about {_duration(progress.expected)} in all; Ctrl-C "
                "keeps the best so far"
            )
            try:
                self._epochs(photos, stop, steps, digest, progress)
            except KeyboardInterrupt:
                progress.interrupted = True
                warn(f"interrupted: epoch {progress.best.number} is kept. The same command goes on from here.")
            self._load(self._out / BEST, digest)
        return progress

    def forget(self) -> None:
        """Remove what a later run would resume from."""
        for name in (STATE, BEST):
            (self._out / name).unlink(missing_ok=True)

    def logits(self, paths: Sequence[Path]) -> Array:
        """Return the model's answers, float64 [N, classes]."""
        found = []
        with tf.device(self._tuning.device):
            for start in range(0, len(paths), self._tuning.batch):
                images = np.stack(list(self._pool.map(self._read, paths[start : start + self._tuning.batch])))
                found.append(self._answer_step(images).numpy())
        return np.concatenate(found).astype(np.float64)

    def _epochs(self, photos: Photos, stop: Photos, steps: int, digest: str, progress: Progress) -> None:
        while (number := progress.epochs[-1].number + 1) <= self._tuning.epochs:
            if number - progress.best.number > _PATIENCE:
                return
            started, losses = time.monotonic(), []
            for step, (images, labels, weights) in enumerate(self._batches(photos, number)):
                done = ((number - 1) * steps + step) / (self._tuning.epochs * steps)
                self._optimizer.learning_rate = self._tuning.rate * 0.5 * (1 + np.cos(np.pi * done))
                losses.append(float(self._train_step(images, labels, weights)))
            progress.epochs.append(found := self._epoch(number, float(np.mean(losses)), stop))
            # The best first: a run that is killed between the two does this epoch again.
            if progress.best is found:
                self._keep(self._out / BEST, digest, progress, optimizer=False)
            self._keep(self._out / STATE, digest, progress)
            say(
                f"Epoch {number} of {self._tuning.epochs}: loss {found.loss:.3f}, held-out fifth {found.stop_loss:.3f} "
                f"and {found.stop_accuracy:.1%} right ({time.monotonic() - started:.0f} s)"
            )

    def _epoch(self, number: int, loss: float | None, stop: Photos) -> Epoch:
        logits = self.logits(stop.paths)
        right = float((logits.argmax(axis=1) == stop.labels).mean())
        return Epoch(number, loss, log_loss(logits, stop.labels, 1.0), right)

    def _step(self, images: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            logits = self._model(scale(images, self._scaling), training=self._tuning.scratch)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
            loss = tf.reduce_sum(losses * weights) / tf.reduce_sum(weights)
        variables = self._model.trainable_variables
        self._optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return loss

    def _answer(self, images: tf.Tensor) -> tf.Tensor:
        return self._model(scale(images, self._scaling), training=False)

    def _batches(self, photos: Photos, epoch: int) -> Iterator[tuple[Array, Array, Array]]:
        """Yield shuffled batches of altered photos; the same ones in every run."""
        order = np.random.default_rng([self._seed, epoch]).permutation(len(photos.paths))
        parts = [order[start : start + self._tuning.batch] for start in range(0, len(order), self._tuning.batch)]
        ahead: tuple[Array, list[Future[Array]]] | None = None
        for part in [*parts, None]:
            after = [] if part is None else [self._submit(photos.paths[row], epoch, int(row)) for row in part]
            if ahead is not None:
                rows, images = ahead
                yield (
                    np.stack([image.result() for image in images]),
                    photos.labels[rows].astype(np.int32),
                    photos.weights[rows].astype(np.float32),
                )
            ahead = None if part is None else (part, after)

    def _submit(self, path: Path, epoch: int, row: int) -> Future[Array]:
        return self._pool.submit(self._altered, path, epoch, row)

    def _altered(self, path: Path, epoch: int, row: int) -> Array:
        seed = int(np.random.default_rng([self._seed, epoch, row]).integers(1 << 60))
        return recoloured(altered(self._read(path), seed), seed + 1)

    def _read(self, path: Path) -> Array:
        found = self._decoded.get(path)
        if found is None:
            found = read_pixels(path, self._pixels)
            if len(self._decoded) * found.size < _MOST_KEPT:
                self._decoded[path] = found
        return found

    def _seconds(self, photos: Photos, steps: int, stopping: int) -> float:
        """Return how long an epoch takes, by a step whose effect is undone."""
        held = [(one, one.numpy()) for one in (*self._variables, *self._optimizer.variables)]
        batch = next(self._batches(photos, 1))
        took = []
        for _ in range(2):
            started = time.monotonic()
            self._train_step(*batch)
            took.append(time.monotonic() - started)
        for variable, value in held:
            variable.assign(value)
        # An answer takes about a third of a step.
        return took[-1] * (steps + stopping / self._tuning.batch / 3)

    def _keep(self, path: Path, digest: str, progress: Progress, *, optimizer: bool = True) -> None:
        arrays = {f"w{index}": one.numpy() for index, one in enumerate(self._variables)}
        if optimizer:
            arrays |= {f"o{index}": one.numpy() for index, one in enumerate(self._optimizer.variables)}
        said = json.dumps({"digest": digest, "epochs": [asdict(epoch) for epoch in progress.epochs]})
        draft = path.with_name(f".{path.name}.tmp")
        with draft.open("wb") as file:
            np.savez(file, allow_pickle=False, said=np.frombuffer(said.encode(), np.uint8), **arrays)
        draft.replace(path)

    def _load(self, path: Path, digest: str) -> dict[str, Any] | None:
        """Give the model the weights of a file; None if there is none of this very training."""
        with contextlib.suppress(OSError, ValueError, KeyError, zipfile.BadZipFile, EOFError):
            with np.load(path, allow_pickle=False) as arrays:
                said: dict[str, Any] = json.loads(bytes(arrays["said"]))
                if said["digest"] != digest:
                    return None
                for index, variable in enumerate(self._variables):
                    variable.assign(arrays[f"w{index}"])
                if "o0" in arrays:
                    for index, variable in enumerate(self._optimizer.variables):
                        variable.assign(arrays[f"o{index}"])
            return said
        return None

    def _resume(self, digest: str, progress: Progress) -> bool:
        if self._load(self._out / BEST, digest) is None:
            return False
        said = self._load(self._out / STATE, digest)
        if said is None:
            return False
        progress.epochs = [Epoch(**epoch) for epoch in said["epochs"]]
        progress.resumed = progress.epochs[-1].number
        say(f"Going on after epoch {progress.resumed} of an earlier run")
        return True


def recoloured(pixels: Array, seed: int) -> Array:
    """Change brightness, contrast and saturation by up to a fifth each."""
    brightness, contrast, saturation = np.random.default_rng(seed).uniform(1 - _JITTER, 1 + _JITTER, 3)
    found = pixels[..., :3].astype(np.float32) * np.float32(brightness)
    grey = (found @ _GREY)[..., None] if found.shape[-1] == len(_GREY) else found
    found = (found - grey) * np.float32(saturation) + grey
    middle = grey.mean()
    changed = np.asarray(np.clip((found - middle) * np.float32(contrast) + middle, 0, 255), np.uint8)
    return np.concatenate([changed, pixels[..., 3:]], axis=-1)  # opacity stays


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
