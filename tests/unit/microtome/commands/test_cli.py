"""The command line: instant help, early refusals, arguments handed on untouched."""

import argparse
import subprocess
import sys
from pathlib import Path

import pytest

from exporter.commands import COMMANDS as EXPORTERS
from microtome import __version__
from microtome.commands.cli import COMMANDS, main
from microtome.commands.up import command

THEIRS = {"exporter.cli", "microtome.commands.verify"}
HEAVY = {"asyncio", "rich", "yaml", "numpy", "tensorflow", "keras", "grpc", "exporter", "service", "modelserver"}


def test_help_imports_nothing_heavy() -> None:
    """What is not imported costs nothing: --help answers at once, TensorFlow or not."""
    program = (
        "import sys, runpy\n"
        "sys.argv = ['microtome', '--help']\n"
        "try: runpy.run_module('microtome', run_name='__main__')\n"
        "except SystemExit as end: assert not end.code\n"
        "print('\\n'.join(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert HEAVY & set(run.stdout.splitlines()) == set()


def test_the_exporters_commands_are_all_in_the_table() -> None:
    """The table is the command's own, since the exporter may not be installed; both say the same of each command."""
    assert EXPORTERS == {name: text for name, (module, text) in COMMANDS.items() if module in THEIRS}


def test_help_groups_all_commands_by_task(capsys: pytest.CaptureFixture[str]) -> None:
    """Each command is listed once, with what it does; new ones too."""
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    listed = {words[0]: words[1] for words in lines if words[0] in COMMANDS}
    assert {name: text for name, (_, text) in COMMANDS.items()} == listed
    assert len(listed) == len([words for words in lines if words[0] in COMMANDS])


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """The version is the package's."""
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"microtome {__version__}\n"


@pytest.mark.parametrize("port", ["70000", "-1", "http"])
def test_an_impossible_port_is_a_usage_error(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong command lines end with 2 and say what was expected."""
    with pytest.raises(SystemExit, match="2"):
        main(["up", f"--port={port}"])
    assert "expected a port from 0 to 65535" in capsys.readouterr().err


def test_a_missing_recipe_is_said_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message says where it looked and what to do."""
    monkeypatch.chdir(tmp_path)
    assert main(["up", "--port=0", "--recipe=absent.yaml"]) == 2
    assert f"There is no recipe absent.yaml in {tmp_path}" in capsys.readouterr().err


def test_a_broken_recipe_is_said_before_anything_starts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The exporter's own words about the recipe reach the user, without a traceback."""
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("models: [")
    assert main(["up", "--port=0", f"--recipe={recipe}"]) == 2
    said = capsys.readouterr().err
    assert "mine.yaml" in said
    assert "Traceback" not in said


def test_the_environment_gives_the_defaults_and_options_win(monkeypatch: pytest.MonkeyPatch) -> None:
    """A deployment's variables mean the same to `up` as to the gateway."""
    monkeypatch.setenv("MICROTOME_PORT", "9100")
    monkeypatch.setenv("MICROTOME_REDIS_URL", "redis://cache:6379/0")
    assert _options([]).port == 9100
    assert _options([]).redis == "redis://cache:6379/0"
    assert _options(["--port=9200"]).port == 9200


def _options(words: list[str]) -> argparse.Namespace:
    return command.build_parser().parse_args(words)
