"""Local response normalisation: neighbouring channels compete (Krizhevsky et al. 2012, section 3.3)."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable(package="microtome")
class LocalResponseNormalization(keras.layers.Layer):  # type: ignore[misc]  # Keras has no types
    """Divide each value by (k + alpha * sum of squares over `2 * radius + 1` channels around it) ** beta.

    Input and output are float [N, H, W, C]. The defaults are the paper's: n = 5, k = 2, alpha = 1e-4, beta = 0.75.
    """

    def __init__(
        self, *, radius: int = 2, k: float = 2.0, alpha: float = 1e-4, beta: float = 0.75, **options: object
    ) -> None:
        super().__init__(**options)
        self.radius, self.k, self.alpha, self.beta = radius, k, alpha, beta

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Normalise."""
        return tf.nn.local_response_normalization(inputs, self.radius, self.k, self.alpha, self.beta)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return the input's shape."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Return what `from_config` needs."""
        own = {"radius": self.radius, "k": self.k, "alpha": self.alpha, "beta": self.beta}
        return {**super().get_config(), **own}
