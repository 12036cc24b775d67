"""Verification: what is wrong is found, and what is found is told."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from exporter.errors import NoVersion, VerificationFailed
from exporter.head.embedding import whole_head
from exporter.head.slicing import Slice, cut
from exporter.models.building import Built
from exporter.recipe.backbones import BACKBONES
from exporter.recipe.resolved import ModelRecipe, OutputRecipe
from exporter.savedmodel.fingerprint import fingerprint
from exporter.savedmodel.freezing import freeze
from exporter.savedmodel.manifest import Arithmetic, Calibrated, describe
from exporter.savedmodel.publication import ASSETS, MANIFEST_FILE
from exporter.savedmodel.saved_model import write_saved_model
from exporter.savedmodel.serving_files import WARMUP_FILE, write_warmup
from exporter.verify.checks import require
from exporter.verify.golden_vectors import recorded
from exporter.verify.sample_images import cosines, relative_errors
from exporter.verify.verification import check_fingerprint, verify
from microtome.manifest import Golden
from tests.unit.exporter.small_models import DEEP, MAP, PIXELS, VECTOR, small_backbone, small_recipe

RECIPE = small_recipe(VECTOR, DEEP, MAP)


def written(directory: Path, built: Built, recipe: ModelRecipe = RECIPE, golden: Golden | None = None) -> Slice:
    """Write a SavedModel of the small backbone, without a draft around it."""
    slice_ = cut(built, recipe)
    frozen = freeze(slice_, whole_head({}))
    golden = golden or recorded(slice_, {})
    manifest = describe(
        recipe, slice_, fingerprint(frozen, PIXELS), Calibrated(), Arithmetic("float32", "float32"), golden=golden
    )
    write_saved_model(directory, frozen, manifest)
    (directory / ASSETS).mkdir()
    (directory / ASSETS / MANIFEST_FILE).write_text(manifest, encoding="utf-8")
    write_warmup(directory / ASSETS, recipe)
    return slice_


def check(directory: Path, slice_: Slice) -> None:
    """Verify and let nothing pass."""
    require(verify(directory, slice_))


def test_faithful_saved_model_passes(tmp_path: Path) -> None:
    """Average, maximum and no pooling behind a scaling all equal Keras and numpy."""
    check(tmp_path, written(tmp_path, small_backbone()))


def test_golden_vectors_of_another_network_are_found(tmp_path: Path) -> None:
    """Every server would refuse the version; the export does, and says which tolerance would hold."""
    other = recorded(cut(small_backbone(seed=1), RECIPE), {})
    slice_ = written(tmp_path, small_backbone(), golden=other)
    with pytest.raises(VerificationFailed, match=r"output vector to equal its golden vectors within .* of 0.0001"):
        check(tmp_path, slice_)


def test_other_weights_are_found(tmp_path: Path) -> None:
    """A SavedModel of other weights than the slice's is refused, with the output and the error."""
    written(tmp_path, small_backbone(seed=1))
    with pytest.raises(
        VerificationFailed, match=r"output vector to equal Keras .* Received: \d(.|\n)*Nothing was published"
    ):
        check(tmp_path, cut(small_backbone(seed=2), RECIPE))


def test_wrong_scaling_is_found(tmp_path: Path) -> None:
    """A graph that scales pixels otherwise than Keras' own `preprocess_input` is refused."""
    written(tmp_path, replace(small_backbone(), row=replace(BACKBONES["MobileNet"], scaling="torch")))
    with pytest.raises(VerificationFailed, match="to equal Keras"):
        check(tmp_path, cut(small_backbone(), RECIPE))


def test_vectors_that_are_not_numbers_are_found(tmp_path: Path) -> None:
    """NaN equals nothing, not even Keras' own NaN."""
    built = small_backbone()
    built.model.get_layer("conv").kernel.assign(np.full((3, 3, 3, 4), math.nan))
    slice_ = written(tmp_path, built)
    with pytest.raises(VerificationFailed, match="Received: nan"):
        check(tmp_path, slice_)


def test_manifest_that_differs_from_the_signature_is_found(tmp_path: Path) -> None:
    """The file for people and the signature for the gateway say the same."""
    slice_ = written(tmp_path, small_backbone())
    (tmp_path / ASSETS / MANIFEST_FILE).write_text("{}", encoding="utf-8")
    with pytest.raises(VerificationFailed, match="manifest signature to answer"):
        check(tmp_path, slice_)


def test_signature_that_differs_from_the_slice_is_found(tmp_path: Path) -> None:
    """An output too few is refused before any number is compared."""
    written(tmp_path, small_backbone())
    with pytest.raises(VerificationFailed, match="Expected the signature outputs"):
        check(tmp_path, cut(small_backbone(), small_recipe(VECTOR)))


def test_every_pooling_equals_its_definition(tmp_path: Path) -> None:
    """The graph's poolings, concatenation and normalising are held against numpy in float64."""
    outputs = [
        OutputRecipe(f"{index}-{normalize}", "conv", pooling, more, None, normalize)
        for index, pooling in enumerate(["avg", "max", "gem(3)", "gem(7.5)", "spp(1,2,3)", "flatten"])
        for more in ((), ("deeper",))
        for normalize in (("none",) if more else ("l2",))
    ]
    recipe = small_recipe(*outputs, OutputRecipe("map", "conv", "none", normalize="l2"))
    check(tmp_path, written(tmp_path, small_backbone(), recipe))


@pytest.mark.parametrize("content", [None, b"", b"not records", b"\0" * 40])
def test_warmup_that_does_not_run_is_found(tmp_path: Path, content: bytes | None) -> None:
    """A missing, empty or damaged warm-up file would keep the version from loading, or the first caller waiting."""
    slice_ = written(tmp_path, small_backbone())
    path = tmp_path / ASSETS / WARMUP_FILE
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(VerificationFailed, match=r"Expected warm-up records"):
        check(tmp_path, slice_)


def test_warmup_record_of_a_large_batch_is_held_against_the_signature(tmp_path: Path) -> None:
    """It is not run, but its images must have the size that the signature takes."""
    slice_ = written(tmp_path, small_backbone())
    path = str(tmp_path / ASSETS / WARMUP_FILE)
    records = list(tf.compat.v1.io.tf_record_iterator(path))
    log = prediction_log_pb2.PredictionLog.FromString(records[2])  # after those of one image and of two
    dims = log.predict_log.request.inputs["images"].tensor_shape.dim
    assert dims[0].size > 2
    dims[1].size += 1
    with tf.io.TFRecordWriter(path) as writer:
        for record in (records[0], log.SerializeToString()):
            writer.write(record)
    with pytest.raises(VerificationFailed, match="where the signature takes"):
        check(tmp_path, slice_)


def test_directory_without_a_model_is_told(tmp_path: Path) -> None:
    """What is no version is a user's mistake, not a traceback."""
    with pytest.raises(NoVersion, match="Expected a version written by microtome export"):
        verify(tmp_path, cut(small_backbone(), RECIPE))


@pytest.mark.parametrize(
    ("actual", "expected", "cosine"),
    [
        ([[3.0, 0.0]], [[5.0, 0.0]], 1.0),
        ([[1.0, 1.0]], [[1.0, 0.0]], 0.70711),
        ([[0.0, 0.0]], [[0.0, 0.0]], 1.0),
        ([[0.0, 0.0]], [[0.0, 1.0]], 0.0),
        ([[math.nan, 1.0]], [[0.0, 1.0]], math.nan),
    ],
)
def test_cosine_is_of_directions(actual: object, expected: object, cosine: float) -> None:
    """Lengths do not matter; nothing equals nothing; what is not a number equals nothing."""
    found = cosines(np.array(actual), np.array(expected))
    assert found == pytest.approx([cosine], abs=1e-5, nan_ok=True)


@pytest.mark.parametrize(
    ("actual", "expected", "error"),
    [
        ([[1.0, 2.0]], [[1.0, 2.0]], 0.0),
        ([[1.0, 2.2]], [[1.0, 2.0]], 0.1),
        ([[9.0, 9.0], [0.0, 0.011]], [[9.0, 9.0], [0.0, 0.01]], 0.1),
        ([[0.0, 0.0]], [[0.0, 0.0]], 0.0),
        ([[math.nan, 0.0]], [[0.0, 1.0]], math.nan),
    ],
)
def test_relative_error_is_that_of_the_worst_image(actual: object, expected: object, error: float) -> None:
    """An image with small values is held to its own scale, not to its neighbour's."""
    found = relative_errors(np.array(actual, np.float32), np.array(expected, np.float32)).max()
    assert found == pytest.approx(error, rel=1e-4, nan_ok=True)


def test_versions_from_before_folding_are_recognised() -> None:
    """Built again with batch norms folded or left, the fingerprint is found; any other is told."""
    recipe = small_recipe(OutputRecipe("a", "bn"))
    slice_ = cut(small_backbone(), recipe)
    new, old = (fingerprint(freeze(slice_, whole_head({}), folded=folded), PIXELS) for folded in (True, False))
    findings = [
        check_fingerprint({"fingerprint": text, "outputs": []}, recipe, slice_, {})
        for text in (new, old, f"sha256:{'0' * 64}")
    ]
    assert [finding.ok for finding in findings] == [True, True, False]
    assert findings[0].detail == new
    assert findings[1].detail.startswith(f"{old}, from before batch norms were folded")
    assert findings[2].detail.endswith(f"Received: {new} when built again.")
