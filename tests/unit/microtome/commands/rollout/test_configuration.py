"""A model's versions and labels change in models.config; everything else in it stays."""

import pytest
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from microtome.commands.rollout.configuration import ConfiguredModel, changed, configured
from microtome.commands.rollout.errors import CannotBegin

CONFIG = """\
# Which models are served.
# Two of them.

model_config_list {
  config {
    name: "lite0"
    base_path: "/models/lite0"
    model_platform: "tensorflow"
  }
  config {
    name: "resnet50"
    base_path: "/models/resnet50"
    model_type: TENSORFLOW
    model_version_policy { latest { num_versions: 2 } }
    version_labels { key: "stable" value: 4 }
    version_labels { key: "canary" value: 5 }
    logging_config {
      log_collector_config { type: "x" filename_prefix: "/logs/a" }
      sampling_config { sampling_rate: 0.25 }
    }
  }
}
"""


def official(text: str) -> model_server_config_pb2.ModelServerConfig:
    """The text as TensorFlow Serving's own schema reads it."""
    return text_format.Parse(text, model_server_config_pb2.ModelServerConfig())


def test_only_the_named_models_versions_and_labels_change() -> None:
    """By the official schema: the other model, paths, and logging stay; so do the comments at the file's beginning."""
    text = changed(CONFIG, "resnet50", [5, 4], {"stable": 5})
    expected = official(CONFIG)
    entry = expected.model_config_list.config[1]
    entry.model_version_policy.ClearField("latest")
    entry.model_version_policy.specific.versions.extend([4, 5])
    entry.version_labels["stable"] = 5
    assert expected == official(text)
    assert text.startswith("# Which models are served.\n# Two of them.\n\n")


def test_a_label_on_a_version_that_goes_is_dropped() -> None:
    """A server refuses a configuration whose label points nowhere."""
    text = changed(CONFIG, "resnet50", [5], {"stable": 5})
    assert ConfiguredModel((5,), {"stable": 5, "canary": 5}) == configured(text, "resnet50")
    assert ConfiguredModel((4,), {"stable": 4}) == configured(
        changed(CONFIG, "resnet50", [4], {"stable": 4}), "resnet50"
    )


def test_what_cannot_be_changed_is_refused() -> None:
    """A model that is not named, a field that does not exist: said before anything is written."""
    with pytest.raises(CannotBegin, match="lite0, resnet50"):
        configured(CONFIG, "vgg19")
    with pytest.raises(CannotBegin, match="base_pth"):
        configured(CONFIG.replace("base_path", "base_pth"), "lite0")
