"""Flags: what is read, what is refused, and what is ignored."""

from __future__ import annotations

import dataclasses

import pytest

from modelserver.config.options import IGNORED, Options, UsageError, parse, usage


def test_values_have_the_kind_of_their_default() -> None:
    """A number, a text with '=' in it, booleans with and without a value."""
    options, ignored = parse(
        ["--port=9000", "--grpc_channel_arguments=a=1,b=2", "--enable_batching", "--enable_model_warmup=false",
         "--file_system_poll_wait_seconds=0.5", "--exit_with_parent=true", "--version=0"]
    )  # fmt: skip

    assert [] == ignored
    assert options == dataclasses.replace(
        Options(),
        port=9000,
        grpc_channel_arguments="a=1,b=2",
        enable_batching=True,
        enable_model_warmup=False,
        file_system_poll_wait_seconds=0.5,
        exit_with_parent=True,
    )


@pytest.mark.parametrize(
    ("argument", "text"),
    [
        ("--prot=1", "Unknown flag: --prot. Nearest: --port"),
        ("--zzzzzz", "Unknown flag: --zzzzzz. Nearest: none; --help lists all"),
        ("--port=many", "argument --port: invalid int value: 'many'"),
        ("--port", "argument --port: expected one argument"),
        ("--enable_batching=perhaps", "argument --enable_batching: expected true or false, received 'perhaps'"),
        ("--enable_batchin", "Unknown flag: --enable_batchin. Nearest: --enable_batching"),
        ("8500", "Expected --flag=value. Received: '8500'"),
        ("--mixed_precision=float8", "argument --mixed_precision: invalid choice: 'float8' (choose from "),
        ("--engine=onnx", "argument --engine: invalid choice: 'onnx' (choose from "),
        ("--log_level=loud", "argument --log_level: invalid choice: 'loud' (choose from "),
    ],
)
def test_what_cannot_be_meant_is_refused(argument: str, text: str) -> None:
    """In one line: expected, received, nearest."""
    with pytest.raises(UsageError) as error:
        parse([argument])

    assert str(error.value).startswith(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--port=0", "--models_dir=m"], "Nowhere to listen"),
        (["--port=70000", "--models_dir=m"], "between 0 and 65535"),
        (["--rest_api_port=-1", "--models_dir=m"], "Expected --rest_api_port between 0 and 65535"),
        (["--port=9000", "--rest_api_port=9000", "--models_dir=m"], "Expected --rest_api_port to differ from --port"),
        ([], "Nothing to serve"),
        (["--models_dir=m", "--model_base_path=/m"], "one of --models_dir and --model_base_path"),
        (["--model_config_file=m", "--enable_reload_requests"], "Expected --models_dir with --enable_reload_requests"),
        (["--models_dir=m", "--max_request_bytes=0"], "Expected --max_request_bytes from 1"),
        (["--models_dir=m", "--max_request_bytes=3000000000"], "Expected --max_request_bytes from 1 to 2147352576"),
        (["--models_dir=m", "--max_request_rows=-1"], "--max_request_rows from 0"),
        (
            ["--models_dir=m", "--shutdown_grace_seconds=nan"],
            "--shutdown_grace_seconds to be a number from 0. Received: nan",
        ),
        (["--models_dir=m", "--model_config_file_poll_wait_seconds=inf"], "a number from 0. Received: inf"),
        (["--models_dir=m", "--num_load_threads=-1"], "Expected --num_load_threads to be a number from 0"),
        (["--model_base_path=m"], "to be absolute"),
        (["--models_dir=m", "--engine=openvino", "--saved_model_tags=gpu"], "Expected --saved_model_tags=serve"),
        (["--models_dir=m", "--grpc_channel_arguments=a"], "k=v"),
        (["--models_dir=m", "--tensorflow_session_parallelism=1", "--tensorflow_intra_op_parallelism=1"], "excludes"),
    ],
)
def test_flags_that_contradict_each_other_are_refused(arguments: list[str], text: str) -> None:
    """Before anything is loaded."""
    options, _ = parse(arguments)
    with pytest.raises(UsageError, match=text):
        options.check()


def test_every_flag_is_in_the_help() -> None:
    """With its default and its explanation."""
    text = " ".join(usage().split())

    for field in dataclasses.fields(Options):
        assert f"--{field.name}=" in text
        assert " ".join(field.metadata["help"].split()) in text
    assert all(f"--{name}" in text for name in IGNORED)


def test_flags_without_meaning_are_told_apart() -> None:
    """With any value or none, so that TensorFlow Serving's command lines start; the log can name them."""
    options, ignored = parse(["--enable_profiler", "--port=1", "--num_unload_threads=1", "--platform_config_file=/f"])

    assert ["enable_profiler", "num_unload_threads", "platform_config_file"] == sorted(ignored)
    assert options == Options(port=1)
