"""TensorFlow Serving's own files: each parsed back by its schema, or by the fields that its reference lists."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format, wrappers_pb2
from tensorflow_serving.config import model_server_config_pb2

from exporter.savedmodel.serving_files import batch_sizes, batching_params, write_serving_configuration

WRAPPED = "google.protobuf."
BATCHING = [
    ("max_batch_size", "Int64Value"), ("batch_timeout_micros", "Int64Value"), ("max_enqueued_batches", "Int64Value"),
    ("num_batch_threads", "Int64Value"), ("thread_pool_name", "StringValue"), ("allowed_batch_sizes", "repeated int64"),
    ("pad_variable_length_inputs", "bool"), ("enable_large_batch_splitting", "BoolValue"),
    ("max_execution_batch_size", "Int64Value"),
]  # fmt: skip
"""BatchingParameters, of which no wheel has the schema: names and kinds in the order of their numbers."""
PROMETHEUS = [("enable", "bool"), ("path", "string")]
KINDS = descriptor_pb2.FieldDescriptorProto


def message(name: str, fields: list[tuple[str, str]], *nested: descriptor_pb2.DescriptorProto) -> Any:
    """Return an empty message of these fields."""
    file = descriptor_pb2.FileDescriptorProto(name=f"{name}.proto", package="made", syntax="proto3")
    file.dependency.append(wrappers_pb2.DESCRIPTOR.name)
    file.message_type.extend(nested)
    described = file.message_type.add(name=name)
    for number, (field, kind) in enumerate(fields, start=1):
        described.field.append(_field(field, number, kind))
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"made.{name}"))()


def _field(name: str, number: int, kind: str) -> descriptor_pb2.FieldDescriptorProto:
    label = KINDS.LABEL_REPEATED if kind.startswith("repeated ") else KINDS.LABEL_OPTIONAL
    plain = {"int64": KINDS.TYPE_INT64, "bool": KINDS.TYPE_BOOL, "string": KINDS.TYPE_STRING}
    bare = kind.removeprefix("repeated ")
    if bare in plain:
        return KINDS(name=name, number=number, label=label, type=plain[bare])
    type_name = f".made.{bare}" if bare == "Prometheus" else f".{WRAPPED}{bare}"
    return KINDS(name=name, number=number, label=label, type=KINDS.TYPE_MESSAGE, type_name=type_name)


def versions(models: Path, *names: str) -> None:
    """Make models that have a version each."""
    for name in names:
        (models / name / "1").mkdir(parents=True)


@pytest.mark.parametrize("largest", [1, 3, 32, 48])
def test_batching_parameters_allow_what_the_warmup_has_seen(largest: int) -> None:
    """The last allowed size is the largest batch, or TensorFlow Serving would refuse the model."""
    parsed = text_format.Parse(batching_params(largest), message("BatchingParameters", BATCHING))
    assert list(parsed.allowed_batch_sizes) == batch_sizes(largest)
    assert parsed.allowed_batch_sizes[-1] == parsed.max_batch_size.value == largest
    # Large batches are divided into sizes that the warm-up has seen.
    assert parsed.enable_large_batch_splitting.value
    assert parsed.max_execution_batch_size.value == largest
    # Less than gateways wait for each other: they batch by themselves.
    assert 0 < parsed.batch_timeout_micros.value <= 500
    assert not parsed.pad_variable_length_inputs


def test_models_config_lists_what_has_a_version(tmp_path: Path) -> None:
    """Names once each, absolute paths, the one platform there is; drafts and empty directories are no models."""
    versions(tmp_path, "b", "a", ".hidden")
    (tmp_path / "empty" / ".tmp-1").mkdir(parents=True)
    write_serving_configuration(tmp_path)
    text = (tmp_path / "models.config").read_text(encoding="utf-8")
    listed = text_format.Parse(text, model_server_config_pb2.ModelServerConfig()).model_config_list.config
    assert [(config.name, config.base_path, config.model_platform) for config in listed] == [
        ("a", str(tmp_path / "a"), "tensorflow"),
        ("b", str(tmp_path / "b"), "tensorflow"),
    ]
    assert [config.model_version_policy.latest.num_versions for config in listed] == [2, 2]


def test_paths_are_those_that_the_server_sees(tmp_path: Path) -> None:
    """In a container the directory lies elsewhere."""
    versions(tmp_path, "a")
    write_serving_configuration(tmp_path, Path("/models"))
    text = (tmp_path / "models.config").read_text(encoding="utf-8")
    (config,) = text_format.Parse(text, model_server_config_pb2.ModelServerConfig()).model_config_list.config
    assert config.base_path == "/models/a"


def test_batching_config_is_one(tmp_path: Path) -> None:
    """What all models share parses by the same fields."""
    versions(tmp_path, "a")
    write_serving_configuration(tmp_path)
    text = (tmp_path / "batching.config").read_text(encoding="utf-8")
    assert text_format.Parse(text, message("BatchingParameters", BATCHING)).num_batch_threads.value > 0


def test_monitoring_config_opens_the_metrics(tmp_path: Path) -> None:
    """Prometheus finds them where the reference says."""
    versions(tmp_path, "a")
    write_serving_configuration(tmp_path)
    prometheus = descriptor_pb2.DescriptorProto(name="Prometheus")
    for number, (field, kind) in enumerate(PROMETHEUS, start=1):
        prometheus.field.append(_field(field, number, kind))
    text = (tmp_path / "monitoring.config").read_text(encoding="utf-8")
    parsed = text_format.Parse(text, message("MonitoringConfig", [("prometheus_config", "Prometheus")], prometheus))
    assert (parsed.prometheus_config.enable, parsed.prometheus_config.path) == (True, "/monitoring/prometheus/metrics")


def test_nothing_else_is_left_and_what_is_the_same_is_not_touched(tmp_path: Path) -> None:
    """A server that polls the files is not made to read them again for nothing."""
    versions(tmp_path, "a")
    write_serving_configuration(tmp_path)
    before = (tmp_path / "models.config").stat()
    write_serving_configuration(tmp_path)
    after = (tmp_path / "models.config").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    expected = ["a", "batching.config", "models.config", "monitoring.config"]
    assert sorted(path.name for path in tmp_path.iterdir()) == expected
