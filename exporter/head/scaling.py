"""Scale pixels in the graph as each family of backbones was trained.

Modes and order of operations are those of `keras.applications.imagenet_utils.preprocess_input`, so that the results
agree to the last bits.
"""

import tensorflow as tf

from exporter.recipe.backbones import Scaling

_CAFFE_MEAN_BGR = (103.939, 116.779, 123.68)
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_DEVIATION = (0.229, 0.224, 0.225)


def scale(images: tf.Tensor, scaling: Scaling) -> tf.Tensor:
    """Scale a batch.

    Args:
        images: uint8 [N, H, W, channels]; RGB for `caffe` and `torch`. Token ids, int32 [N, T], stay what they are.
        scaling: `caffe`: BGR, minus the ImageNet mean in grey levels. `tf`: -1 to 1. `torch`: 0 to 1, then minus
            mean and divided by deviation per channel. `none`: 0 to 255, for backbones with scaling layers.

    Returns:
        float32 of the same shape.
    """
    if images.dtype == tf.int32:
        return images
    pixels = tf.cast(images, tf.float32)
    if scaling == "tf":
        return pixels / 127.5 - 1.0
    if scaling == "torch":
        return (pixels / 255.0 - tf.constant(_IMAGENET_MEAN)) / tf.constant(_IMAGENET_DEVIATION)
    if scaling == "caffe":
        return pixels[..., ::-1] - tf.constant(_CAFFE_MEAN_BGR)
    return pixels
