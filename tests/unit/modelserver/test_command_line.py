"""Flags: what is read, what is refused, and that the table and the options agree."""

from __future__ import annotations

import dataclasses

import pytest

from modelserver.command_line import UsageError, parse, usage
from modelserver.flags import FLAGS, Meaning
from modelserver.options import Options, without_meaning


def test_values_have_the_kind_of_their_default() -> None:
    """A number, a text with '=' in it, booleans with and without a value."""
    assert {
        "port": 9000,
        "grpc_channel_arguments": "a=1,b=2",
        "enable_batching": True,
        "enable_model_warmup": False,
        "file_system_poll_wait_seconds": 0.5,
    } == parse(
        ["--port=9000", "--grpc_channel_arguments=a=1,b=2", "--enable_batching", "--enable_model_warmup=false",
         "--file_system_poll_wait_seconds=0.5"]
    )  # fmt: skip


@pytest.mark.parametrize(
    ("argument", "text"),
    [
        ("--prot=1", "Unknown flag: --prot. Nearest: --port"),
        ("--zzzzzz", "Unknown flag: --zzzzzz. Nearest: none; --help lists all"),
        ("--port=many", "Expected --port=<int>. Received: 'many'"),
        ("--port", "Expected --port=<int>. Received: '--port'"),
        ("--enable_batching=perhaps", "Expected --enable_batching=<bool>. Received: 'perhaps'"),
        ("8500", "Expected --flag=value. Received: '8500'"),
    ],
)
def test_what_cannot_be_meant_is_refused(argument: str, text: str) -> None:
    """Expected, received, nearest."""
    with pytest.raises(UsageError) as error:
        parse([argument])

    assert str(error.value).startswith(text)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--port=0", "--models_dir=m"], "Nowhere to listen"),
        (["--port=70000", "--models_dir=m"], "between 0 and 65535"),
        (["--rest_api_port=-1", "--models_dir=m"], "Expected --rest_api_port between 0 and 65535"),
        (["--port=9000", "--rest_api_port=9000", "--models_dir=m"], "Expected --rest_api_port to differ from --port"),
        ([], "Nothing to serve"),
        (["--models_dir=m", "--model_base_path=/m"], "one of --models_dir and --model_base_path"),
        (["--model_base_path=m"], "to be absolute"),
        (["--models_dir=m", "--mixed_precision=float8"], "Expected --mixed_precision=bfloat16"),
        (["--models_dir=m", "--engine=onnx"], "Expected --engine to be one of tensorflow, openvino. Received: 'onnx'"),
        (["--models_dir=m", "--engine=openvino", "--saved_model_tags=gpu"], "Expected --saved_model_tags=serve"),
        (["--models_dir=m", "--log_level=loud"], "debug, info, warning, error"),
        (["--models_dir=m", "--grpc_channel_arguments=a"], "k=v"),
        (["--models_dir=m", "--tensorflow_session_parallelism=1", "--tensorflow_intra_op_parallelism=1"], "excludes"),
    ],
)
def test_flags_that_contradict_each_other_are_refused(arguments: list[str], text: str) -> None:
    """Before anything is loaded."""
    with pytest.raises(UsageError, match=text):
        Options.of(parse(arguments))


def test_options_and_table_name_the_same_flags() -> None:
    """A flag that means something has an option, and the other way round; kinds agree."""
    meaningful = {name: type(flag.default).__name__ for name, flag in FLAGS.items() if flag.meaning is not Meaning.NONE}

    assert meaningful == {field.name: getattr(field.type, "__name__", "") for field in dataclasses.fields(Options)}


def test_every_flag_is_in_the_help() -> None:
    """With its explanation, when it means something."""
    text = usage()

    for name, flag in FLAGS.items():
        assert f"--{name}" in text
        assert flag.help in text
        assert bool(flag.help) is (flag.meaning is not Meaning.NONE)


def test_flags_without_meaning_are_told_apart() -> None:
    """So that the log can name them."""
    assert ["enable_profiler"] == without_meaning(parse(["--enable_profiler", "--port=1"]))
