"""TensorFlow Serving ignores a flag that it does not know, and dies late of a file that is wrong: both show here."""

import re
import subprocess
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from google.protobuf.message import Message

from microtome import __version__
from microtome.commands.manifests import main
from microtome.commands.rollout.configuration import changed, configured
from modelserver.config.options import IGNORED, OWN, Options, parse
from tests.deploy.manifests import OTHER, OTHER_RECIPE, OWN_FUNCTION, containers, find, pod, render, workloads, written
from tests.deploy.tfserving import FILES, command_lines, compose, embedded_command_lines, gpu_environments, local_file
from tests.deploy.tools import tool
from tests.exported_models import REPOSITORY

WANTED = {
    "enable_profiler": "false",  # on by default, and open to all who reach the port
    "allow_version_labels_for_unavailable_models": "true",  # else a label in the first configuration stops the start
    "num_load_threads": "1",  # else a broken version holds up all models
    "num_unload_threads": "1",
    "enable_serialization_as_tensor_content": "true",
    "enable_grpc_healthcheck_service": "true",
    "enable_batching": "true",
    "enable_per_model_batching_parameters": "true",  # else batches of sizes that no warm-up has seen
    # else three pings of a gateway into a call without data close the connection, see tests/contract/test_keepalive.py
    "grpc_channel_arguments": (
        "grpc.http2.min_ping_interval_without_data_ms=5000,grpc.keepalive_permit_without_calls=1"
    ),
    "tensorflow_session_config_file": "/etc/tfserving/session.config",  # else another copy of the weights for each set
}

_FIELD = descriptor_pb2.FieldDescriptorProto
_WRAPPED = {1: "max_batch_size", 2: "batch_timeout_micros", 3: "max_enqueued_batches", 4: "num_batch_threads"}


def message(
    name: str, fields: Mapping[int, tuple[str, _FIELD.Type.ValueType, str, bool]]
) -> descriptor_pb2.DescriptorProto:
    """Describe a message by number: name, type, type's name, repeated."""
    described = descriptor_pb2.DescriptorProto(name=name)
    for number, (field, kind, type_name, repeated) in fields.items():
        label = _FIELD.LABEL_REPEATED if repeated else _FIELD.LABEL_OPTIONAL
        described.field.add(name=field, number=number, type=kind, type_name=type_name or None, label=label)
    return described


def official_messages() -> dict[str, type[Message]]:
    """TensorFlow Serving's messages that no package ships, from their field tables in its repository.

    session_bundle_config.proto (BatchingParameters) and monitoring_config.proto.
    """
    file = descriptor_pb2.FileDescriptorProto(name="deploy_test.proto", package="deploy_test", syntax="proto3")
    file.message_type.append(message("Value", {1: ("value", _FIELD.TYPE_INT64, "", False)}))
    batching = {n: (name, _FIELD.TYPE_MESSAGE, ".deploy_test.Value", False) for n, name in _WRAPPED.items()}
    file.message_type.append(
        message("BatchingParameters", batching | {6: ("allowed_batch_sizes", _FIELD.TYPE_INT64, "", True)})
    )
    prometheus = {1: ("enable", _FIELD.TYPE_BOOL, "", False), 2: ("path", _FIELD.TYPE_STRING, "", False)}
    file.message_type.append(message("PrometheusConfig", prometheus))
    monitoring = {1: ("prometheus_config", _FIELD.TYPE_MESSAGE, ".deploy_test.PrometheusConfig", False)}
    file.message_type.append(message("MonitoringConfig", monitoring))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"deploy_test.{name}"))
        for name in ("BatchingParameters", "MonitoringConfig")
    }


def text(name: str) -> str:
    """Read one of the configuration files."""
    return (FILES / name).read_text(encoding="utf-8")


@pytest.mark.parametrize(("place", "arguments"), command_lines().items(), ids=command_lines())
def test_tensorflow_serving_knows_every_flag(place: str, arguments: list[str]) -> None:
    """Each is in the table of its flags, with a value of the right kind; none is one of ours; none comes twice."""
    given = dict(argument.removeprefix("--").split("=", 1) for argument in arguments)
    assert len(given) == len(arguments)
    options, ignored = parse(arguments)
    own = {field.name for field in fields(Options) if field.metadata["help"].endswith(OWN)}
    assert not own & given.keys()
    assert {"enable_profiler", "num_unload_threads", "tensorflow_session_config_file"} == set(ignored) <= set(IGNORED)
    assert WANTED == {name: given[name] for name in WANTED}
    # Threads that wait in batches: twice the largest batch at least.
    assert options.grpc_max_threads >= 64


@pytest.mark.parametrize(("place", "arguments"), embedded_command_lines().items(), ids=embedded_command_lines())
def test_the_embedded_server_knows_every_flag(place: str, arguments: list[str]) -> None:
    """Each is one that has a meaning there."""
    options, ignored = parse(arguments)
    options.check()
    assert [] == ignored
    assert WANTED["grpc_channel_arguments"] == options.grpc_channel_arguments
    # Rollouts change the file, which may name models of that directory only; callers change nothing.
    assert ("/models", False) == (options.models_dir, options.enable_reload_requests)
    assert options.enable_batching
    assert options.enable_per_model_batching_parameters


@pytest.mark.parametrize("place", [*command_lines()])
def test_files_on_the_command_line_are_there(place: str) -> None:
    """Every file under /etc/tfserving is one of those that are mounted there."""
    files = [file for argument in command_lines()[place] if (file := local_file(argument))]
    assert 4 == len(files)
    assert [] == [file for file in files if not file.is_file()]


@pytest.mark.parametrize(("place", "environment"), gpu_environments().items(), ids=gpu_environments())
def test_tensorflow_serving_computes_float32_on_a_gpu(place: str, environment: Mapping[str, str]) -> None:
    """TF32 is off: it moves vectors by about 1e-3. Who wants it says so; compose reads a variable of the same name."""
    assert environment["NVIDIA_TF32_OVERRIDE"] in {"0", "${NVIDIA_TF32_OVERRIDE:-0}"}


def test_every_gpu_of_the_manifests_is_found() -> None:
    """Compose's service, and each overlay with the component `gpu`, alone and with every other component."""
    assert {"tfserving-gpu", "local+gpu", "production+gpu", "production+gpu+object-store"} <= {*gpu_environments()}


def test_documented_commands_for_a_gpu_turn_tf32_off() -> None:
    """A `docker run` of TensorFlow Serving on a GPU in the documentation sets the variable too."""
    pages = [REPOSITORY / "README.md", *(REPOSITORY / "docs").rglob("*.md"), *(REPOSITORY / "deploy").rglob("*.md")]
    commands = [
        command
        for page in pages
        for command in re.findall(
            r"^(?:docker|podman) run .*(?:\\\n.*)*", page.read_text(encoding="utf-8"), re.MULTILINE
        )
        if re.search(r"--gpus|serving:\S*-gpu", command)
    ]
    assert [] == [command for command in commands if "NVIDIA_TF32_OVERRIDE=0" not in command]


@pytest.mark.parametrize("other", [False, True])
def test_models_config_is_what_the_official_schema_allows(*, other: bool) -> None:
    """Unique names, absolute paths under /models, TensorFlow's platform, and the models that the gateway asks for.

    Two versions stay loaded: servers find a new version at different times, and gateways use the old one until then. A
    version that the recipe pins has the label that gateways follow.
    """
    from tensorflow_serving.config import model_server_config_pb2  # noqa: PLC0415, takes seconds

    place = written() if other else REPOSITORY / "deploy"
    written_text = (place / "tfserving" / "models.config").read_text(encoding="utf-8")
    config = text_format.Parse(written_text, model_server_config_pb2.ModelServerConfig())
    models = {model.name: model for model in config.model_config_list.config}
    assert len(models) == len(config.model_config_list.config)
    assert {f"/models/{name}" for name in models} == {model.base_path for model in models.values()}
    assert {"tensorflow"} == {model.model_platform for model in models.values()}
    policies = {name: model.model_version_policy for name, model in models.items()}
    assert (["mobile", "own"] if other else ["lite0"]) == list(models)
    pinned = policies.pop("mobile", None)
    if pinned is not None:
        assert ([3], {"stable": 3}) == ([*pinned.specific.versions], dict(models["mobile"].version_labels))
    assert {2} == {policy.latest.num_versions for policy in policies.values()}
    asked = re.findall(r"^MICROTOME_MODELS=(.*)$", (place / "recipe" / "gateway.env").read_text(), re.MULTILINE)
    assert [",".join([*models, "*"])] == asked
    (environment,) = [
        m["data"]
        for m in render(("production", *([OTHER] if other else [])))
        if m["kind"] == "ConfigMap" and m["metadata"]["name"].startswith("gateway-")
    ]
    assert (asked[0], "20") == (environment["MICROTOME_MODELS"], environment["MICROTOME_DRAIN"])


@pytest.mark.parametrize("recipe", [(), (OTHER,)])
@pytest.mark.parametrize("rolled", [False, True])
def test_servers_wait_for_a_version_of_every_model(tmp_path: Path, recipe: tuple[str, ...], *, rolled: bool) -> None:
    """The init container reads models.config, as written and as a rollout rewrites it, and names no model itself."""
    manifests = render(("production", *recipe))
    (box,) = [c for c in containers(find(manifests, "Deployment", "model-server")) if c["name"] == "models"]
    config = find(manifests, "ConfigMap", "models-config")["data"]["models.config"]
    names = re.findall(r'name: "(.*)"', config)
    for name in names if rolled else ():
        config = changed(config, name, [1], {"stable": 1})
    (tmp_path / "models.config").write_text(config.replace('"/models/', f'"{tmp_path}/'), encoding="utf-8")
    bash, c, script = box["command"]
    with subprocess.Popen(
        [bash, c, script.replace("/etc/tfserving", str(tmp_path))], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for name in names:
            assert f"waiting for a version of {tmp_path}/{name}\n" == process.stdout.readline()
            assert process.poll() is None
            (tmp_path / name / "1").mkdir(parents=True)
            (tmp_path / name / "1" / "saved_model.pb").touch()
        assert 0 == process.wait(60)


def test_a_version_pinned_in_place_of_another_leaves_it_loaded(tmp_path: Path) -> None:
    """Until the new one is there, the old one serves; the one before it goes."""
    found = []
    for version in (3, 4, 4, 7):
        recipe = OTHER_RECIPE.split("  - name: own")[0].replace("version: 3", f"version: {version}")
        (tmp_path / "recipe.yaml").write_text(recipe)
        assert 0 == main(["manifests", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "mine")])
        found.append(configured((tmp_path / "mine/tfserving/models.config").read_text(), "mobile"))
    assert [((3,), {"stable": 3}), ((3, 4), {"stable": 4}), ((3, 4), {"stable": 4}), ((4, 7), {"stable": 7})] == found


def test_what_a_rollout_chose_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In compose a rollout changes the file: it is not replaced unasked, and then with the version that was chosen."""
    recipe, models = tmp_path / "recipe.yaml", tmp_path / "mine/tfserving/models.config"
    recipe.write_text(OTHER_RECIPE.split("  - name: own")[0].replace("    version: 3\n", ""))
    words = ["manifests", str(recipe), "--out", str(tmp_path / "mine")]
    assert 0 == main(words)
    assert ((), {}) == configured(models.read_text(), "mobile")
    models.write_text(changed(models.read_text(), "mobile", [2], {"stable": 2}))
    capsys.readouterr()
    assert (2, 0, 0) == (main(words), main([*words, "--force"]), main(words))
    assert ((2,), {"stable": 2}) == configured(models.read_text(), "mobile")
    assert 2 == capsys.readouterr().out.count("mobile stays at 2: ")
    models.unlink()
    assert 0 == main(words)
    assert ((), {}) == configured(models.read_text(), "mobile")


def test_a_recipe_with_large_files_is_an_image(tmp_path: Path) -> None:
    """Of the operator's registry, as every other; there is no ConfigMap to mount."""
    (tmp_path / "own.py").write_text(OWN_FUNCTION + "# long\n" * 30_000)
    (tmp_path / "names").mkdir()
    (tmp_path / "names" / "kinds.txt").write_text("a\nb\n")
    (tmp_path / "recipe.yaml").write_text(OTHER_RECIPE)
    assert 0 == main(["manifests", str(tmp_path / "recipe.yaml"), "--target=kubernetes", f"--out={tmp_path / 'mine'}"])
    with (tmp_path / "mine" / "kustomization.yaml").open("a") as file:
        file.write("images: [{name: microtome/recipe, newName: registry.example.com/microtome/recipe}]\n")
    done = subprocess.run(
        [tool("kubectl"), "kustomize", str(tmp_path / "mine")], capture_output=True, text=True, check=True
    )
    (exporter,) = [w for w in workloads(tuple(yaml.safe_load_all(done.stdout))) if w["metadata"]["name"] == "exporter"]
    images = {box["image"] for box in containers(exporter)}
    assert re.fullmatch(rf"registry\.example\.com/microtome/recipe:{re.escape(__version__)}-[0-9a-f]{{12}}", *images)
    assert {"models", "tmp"} == {volume["name"] for volume in pod(exporter)["volumes"]}


def test_batching_config_has_the_threads_of_all_models() -> None:
    """And nothing else: sizes are those of each version's own file, which the exporter writes."""
    config = text_format.Parse(text("batching.config"), official_messages()["BatchingParameters"]())
    assert ["num_batch_threads"] == [field.name for field, _ in config.ListFields()]


def test_session_config_keeps_one_copy_of_the_weights_for_each_set_of_outputs() -> None:
    """By TensorFlow's own schema."""
    from tensorflow.core.protobuf import config_pb2  # noqa: PLC0415, takes seconds

    config = text_format.Parse(text("session.config"), config_pb2.ConfigProto())
    assert config.experimental.disable_output_partition_graphs
    assert ["experimental"] == [field.name for field, _ in config.ListFields()]


def test_monitoring_config_turns_prometheus_on() -> None:
    """At the path that Prometheus is told."""
    config = text_format.Parse(text("monitoring.config"), official_messages()["MonitoringConfig"]())
    assert config.prometheus_config.enable  # type: ignore[attr-defined]
    scraping = (REPOSITORY / "deploy/prometheus/prometheus.yml").read_text(encoding="utf-8")
    assert config.prometheus_config.path in scraping  # type: ignore[attr-defined]
    # Compose asks for the same page whether the server is healthy.
    assert f"GET {config.prometheus_config.path} HTTP" in str(compose())  # type: ignore[attr-defined]


def test_a_misspelt_field_would_be_found() -> None:
    """The parser is strict: plain numbers where the schema has wrappers are refused."""
    with pytest.raises(text_format.ParseError):
        text_format.Parse("max_batch_size: 32", official_messages()["BatchingParameters"]())
