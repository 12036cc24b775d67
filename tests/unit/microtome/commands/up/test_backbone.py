"""`microtome up --model`: contradictions end in a sentence, and a recipe is made once."""

import asyncio
import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from exporter.recipe.backbones import Scaling
from exporter.recipe.reading import read_recipe
from microtome.commands.up import backbone, command
from microtome.commands.up.errors import CannotStart
from microtome.commands.up.signals import StopRequests, listening
from microtome.commands.up.terminal import Terminal


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder with a file of Keras, without this machine's settings."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MICROTOME_MODEL_SERVER", raising=False)
    (tmp_path / "mine.keras").touch()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--layer=avg_pool", "--layer goes with --model"),
        ("--model=ResNet50 --recipe=r.yaml", "contradict each other"),
        ("--model=ResNet50 --model-server=localhost:1", "nothing is exported"),
        ("--model=ResNet5", "Nearest: ResNet50"),
        ("--model=absent.keras --scaling=tf", "absent.keras is not there"),
        ("--model=mine.keras", "needs --scaling"),
        ("--model=ResNet50 --scaling=tf", "how ResNet50 wants its pixels is known"),
        ("--model=ResNet50 --pooling=average", r"Expected --pooling to be one of avg, .* Received: 'average'"),
        ("--model=ResNet50 --weights=imagnet", "Nearest: imagenet"),
        ("--model=keras_hub:resnet_18", "its input size has to be said"),
        ("--model=my:function", "its input size has to be said"),
        ("--model=model.onnx", "an ONNX file"),
    ],
)
def test_options_that_cannot_be_are_a_sentence(words: str, expected: str) -> None:
    """What was expected, and the nearest names."""
    with pytest.raises(CannotStart, match=expected):
        backbone.check(command.build_parser().parse_args(words.split()))


def test_the_scalings_are_those_of_recipes() -> None:
    """The command line names them itself, so that --help needs nothing of the exporter."""
    assert set(command.SCALINGS) == set(get_args(Scaling))


POINTS = [
    {"index": 0, "name": "input", "shape": [None, 224, 224, 3], "default_cut": False},
    {"index": 1, "name": "odd name/ä", "shape": [None, 7, 7, 64], "default_cut": True},
    {"index": 2, "name": "avg_pool", "shape": [None, 64], "default_cut": False},
]


def made(words: str) -> tuple[Path, str]:
    """Make the recipe of a command line; return its file, and what was said."""
    options = command.build_parser().parse_args(words.split())
    backbone.check(options)
    said = io.StringIO()

    async def make() -> Path | None:
        with stopping() as stop:
            return await backbone.recipe(options, Terminal(said, said), stop)

    path = asyncio.run(make())
    assert path is not None
    return path, said.getvalue()


@contextlib.contextmanager
def stopping() -> Iterator[StopRequests]:
    """Nothing requests a stop."""
    with listening() as stop:
        yield stop


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stand in for the exporter's list of layers; return what it was asked for."""
    asked: list[str] = []

    async def points(name: str, *_: object) -> list[dict[str, object]]:
        asked.append(name)
        return POINTS

    monkeypatch.setattr(backbone, "_points", points)
    return asked


@pytest.mark.parametrize(
    ("words", "name", "outputs"),
    [
        ("--model=ResNet50", "resnet50-odd-name", [("odd-name", "odd name/ä", "avg")]),
        ("--model=ResNet50 --layer=avg_pool", "resnet50-avg_pool", [("avg_pool", "avg_pool", "none")]),
        ("--model=VGG16 --layer=-1 --layer=1 --pooling=gem --weights=random", "vgg16-avg_pool-odd-name-gem-3-random",
         [("avg_pool", "avg_pool", "none"), ("odd-name", "odd name/ä", "gem(3)")]),
        ("--model=mine.keras --scaling=tf", "mine-odd-name-tf", [("odd-name", "odd name/ä", "avg")]),
    ],
)  # fmt: skip
def test_a_recipe_is_made_once_and_edits_are_kept(
    words: str, name: str, outputs: list[tuple[str, str, str]], asked: list[str]
) -> None:
    """It is one that --recipe takes; the second start asks nothing; an edited file is left alone."""
    path, said = made(words)
    text = path.read_text()
    assert (path, True) == (Path("models", f"{name}.yaml"), text in said)
    (model,) = read_recipe(path).models
    assert (name, outputs) == (model.name, [(one.name, one.layer, one.pooling) for one in model.outputs])
    again, said = made(words)
    assert (path, text, 1) == (again, path.read_text(), len(asked))
    assert "was made for it earlier" in said
    path.write_text(text.replace("models:", "models:  # mine"))
    other, _ = made(words)
    assert (f"{name}-2.yaml", "# mine" in path.read_text()) == (other.name, True)
    assert other == made(words)[0]


def test_a_name_that_is_taken_by_a_model_is_not_used(asked: list[str]) -> None:
    """Nothing that was exported from another recipe gets another version."""
    Path("models", "resnet50-avg_pool", "3").mkdir(parents=True)
    assert made("--model=ResNet50 --layer=avg_pool")[0].name == "resnet50-avg_pool-2.yaml"
    assert asked == ["ResNet50"]
    with pytest.raises(CannotStart, match=r"Received: 'avgpool'\. Nearest: avg_pool\."):
        made("--model=ResNet50 --layer=avgpool")


def test_the_layers_are_those_of_the_exporter() -> None:
    """The exporter itself is asked, in a process of its own; its usual cut is taken."""
    path, _ = made("--model=EfficientNetLite0")
    (model,) = read_recipe(path).models
    assert ("efficientnetlite0-top_activation", "top_activation") == (model.name, model.outputs[0].layer)
