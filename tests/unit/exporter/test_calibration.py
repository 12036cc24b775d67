"""Calibration: what the images tell, the same every time; and lower precision, with its price told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from exporter import export as export_module
from exporter.errors import CalibrationImageBroken, ImpossibleProjection
from exporter.export import calibrate, frozen_as_asked, measure
from exporter.head.embedding import whole_head
from exporter.head.projection import FittedPca, read_projections, write_projections
from exporter.head.slicing import cut
from exporter.recipe.files import image_files
from exporter.recipe.resolved import Calibration, ModelRecipe, OutputRecipe, Projection
from exporter.savedmodel.fingerprint import fingerprint
from exporter.savedmodel.freezing import freeze, frozen_graph
from exporter.savedmodel.manifest import Arithmetic
from exporter.verify.keras_reference import reference
from exporter.verify.sample_images import with_images
from tests.pictures import png
from tests.unit.exporter.small_models import VECTOR, small_backbone, small_recipe

PCA = OutputRecipe("pca", "conv", "avg", (), Projection("pca", 2), "l2", "int8")
RANDOM = OutputRecipe("random", "conv", "flatten", (), Projection("random", 7))
IMAGES = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pictures that differ."""
    directory = tmp_path_factory.mktemp("photos")
    for index in range(IMAGES):
        (directory / f"{index}.png").write_bytes(png(index))
    return directory


@pytest.fixture
def recipe(folder: Path) -> ModelRecipe:
    """A recipe whose outputs need the pictures."""
    return replace(small_recipe(PCA, RANDOM), calibration=Calibration(str(folder), IMAGES, "digest"))


def test_ranges_are_those_of_the_served_vectors(recipe: ModelRecipe, folder: Path) -> None:
    """Smallest and largest are taken after projecting and normalising, as clients will see the numbers."""
    slice_ = cut(small_backbone(), recipe)
    calibrated = calibrate(recipe, slice_)
    pixels = with_images(recipe.input, image_files(folder, IMAGES))[-IMAGES:]
    vectors = reference(slice_, pixels, calibrated.projections)["pca"]
    low, high = calibrated.ranges["pca"]
    np.testing.assert_allclose(low, vectors.min(axis=0), atol=1e-4)
    np.testing.assert_allclose(high, vectors.max(axis=0), atol=1e-4)
    assert set(calibrated.ranges) == {"pca"}
    assert calibrated.images == IMAGES


def test_same_images_give_the_same_fingerprint_and_others_another(recipe: ModelRecipe, folder: Path) -> None:
    """Fitting is deterministic to the last bit, and what it is fitted on moves the vectors."""

    def found(images: int) -> str:
        chosen = replace(recipe, calibration=Calibration(str(folder), images, "digest"))
        slice_ = cut(small_backbone(), chosen)
        calibrated = calibrate(chosen, slice_)
        frozen = freeze(slice_, whole_head(calibrated.projections))
        return fingerprint(frozen, chosen.input, calibrated.ranges)

    assert found(IMAGES) == found(IMAGES)
    assert found(IMAGES) != found(IMAGES - 2)


def test_ranges_alone_change_the_fingerprint(recipe: ModelRecipe) -> None:
    """They move no float32 vector, but every int8 one."""
    frozen = freeze(cut(small_backbone(), small_recipe()), whole_head({}))
    low, high = np.zeros(2, np.float32), np.ones(2, np.float32)
    prints = {fingerprint(frozen, recipe.input, ranges) for ranges in (None, {"a": (low, high)}, {"a": (low, low)})}
    assert len(prints) == 3


def test_projections_can_be_read_back(recipe: ModelRecipe, tmp_path: Path) -> None:
    """A version can be verified without the images that it was fitted on."""
    projections = calibrate(recipe, cut(small_backbone(), recipe)).projections
    write_projections(tmp_path, projections)
    again = read_projections(tmp_path)
    assert list(again) == list(projections)
    for name, fitted in projections.items():
        other = again[name]
        assert type(other) is type(fitted)
        fields = ("mean", "components") if isinstance(fitted, FittedPca) else ("rows", "columns", "signs")
        for field in fields:
            np.testing.assert_array_equal(getattr(other, field), getattr(fitted, field))


def test_more_dimensions_than_images_allow_are_refused(recipe: ModelRecipe) -> None:
    """Two images have one axis between them."""
    assert recipe.calibration is not None
    few = replace(recipe, calibration=replace(recipe.calibration, images=2))
    with pytest.raises(ImpossibleProjection, match="2 calibration images"):
        calibrate(few, cut(small_backbone(), few))


def test_broken_image_ends_the_calibration(recipe: ModelRecipe, tmp_path: Path) -> None:
    """It is named, and nothing is fitted on the rest in silence."""
    for index in range(4):
        (tmp_path / f"{index}.png").write_bytes(png(index))
    (tmp_path / "2.png").write_bytes(b"none")
    broken = replace(recipe, calibration=Calibration(str(tmp_path), 4, "digest"))
    with pytest.raises(CalibrationImageBroken, match=r"2\.png"):
        calibrate(broken, cut(small_backbone(), broken))


@pytest.mark.parametrize(("precision", "least"), [("bfloat16", 0.99), ("float16", 0.9999)])
def test_lower_precision_is_near_and_its_price_is_told(
    recipe: ModelRecipe, precision: str, least: float, capsys: pytest.CaptureFixture[str]
) -> None:
    """Weights are stored in half the bytes, vectors are near those of float32, and how near is measured."""
    plain = replace(small_recipe(), precision=precision)
    slice_ = cut(small_backbone(), plain)
    frozen = frozen_graph(slice_, {}, precision)
    costs, images = measure(plain, precision, frozen, slice_, calibrate(plain, slice_))
    assert images == 0
    assert all(least <= cost.worst <= cost.median <= 1 + 1e-6 for cost in costs.values())
    halves = sum(node.attr["dtype"].type == tf.as_dtype(precision).as_datatype_enum for node in frozen.definition.node)
    assert halves >= 2  # the kernels of both convolutions
    warned = "warning: in" in capsys.readouterr().err
    assert warned == any(cost.worst < 0.9999 for cost in costs.values())


def test_auto_takes_a_lower_precision_only_where_it_costs_nothing(
    recipe: ModelRecipe, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The decision is by the photos, stands in manifest and fingerprint, and warns of nothing."""
    auto = replace(recipe, precision="auto", outputs=(VECTOR,), default_output="vector")
    slice_ = cut(small_backbone(), auto)
    chosen = {}
    for least in (0.9999, 1.1):
        monkeypatch.setattr(export_module, "HARMLESS", least)
        chosen[least] = frozen_as_asked(auto, slice_, calibrate(auto, slice_))
    assert [arithmetic.name for _, arithmetic in chosen.values()] == ["bfloat16", "float32"]
    graph, arithmetic = chosen[0.9999]
    assert (set(arithmetic.cosines), list(arithmetic.tried)) == ({"vector"}, ["bfloat16"])
    last = chosen[1.1][1].described
    assert (last["asked"], last["arithmetic"], last["worst_cosine"], last["images"]) == ("auto", "float32", {}, IMAGES)
    assert 0.9999 <= last["tried"]["bfloat16"]["vector"] < last["tried"]["float16"]["vector"] <= 1 + 1e-6
    assert chosen[1.1][1].identity["tried"]["float16"] in ({"vector": 0.9999}, {"vector": 1.0})
    again = Arithmetic.read({"precision": arithmetic.described}).identity
    plain, asked, read = (fingerprint(graph, slice_.input, precision=one) for one in ({}, arithmetic.identity, again))
    assert plain != asked == read
    assert "warning" not in capsys.readouterr().err
