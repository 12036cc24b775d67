"""`microtome manifests`: deploy/ is its output, what a recipe adds, and what it never replaces."""

import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest
import yaml

from microtome.commands.cli import main

REPOSITORY = Path(__file__).parents[4]
RECIPE = """\
models:
  - name: {name}
    backbone: {backbone}
    weights: {weights}
    outputs: [{{name: top, layer: top, pooling: avg}}]
"""
LABELS = """\
    input: {{size: 64, scaling: tf}}
    outputs: [{{name: kinds, kind: classes, layer: end, labels: {labels}}}]
"""


def run(place: Path, *options: str, recipe: str = "recipe.yaml") -> int:
    """Run the command for a recipe of a folder, into its folder `mine`."""
    return main(["manifests", str(place / recipe), "--out", str(place / "mine"), *options])


def write(place: Path, backbone: str = "EfficientNetLite0", weights: str = "imagenet", name: str = "one") -> None:
    """Write a recipe of one model."""
    (place / "recipe.yaml").write_text(RECIPE.format(name=name, backbone=backbone, weights=weights))


def files(place: Path) -> set[str]:
    """List the files below a folder."""
    return {path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file()}


def test_deploy_is_what_it_writes_for_the_default_recipe(tmp_path: Path) -> None:
    """To the byte, and nothing is missing that is not for those who develop it.

    After a change of recipe.yaml: microtome manifests recipe.yaml --out deploy --force
    """
    assert main(["manifests", str(REPOSITORY / "recipe.yaml"), "--out", str(tmp_path)]) == 0
    made = files(tmp_path) - {"manifests.sha256"}
    deploy = REPOSITORY / "deploy"
    assert [] == [path for path in made if (tmp_path / path).read_bytes() != (deploy / path).read_bytes()]
    listed = subprocess.run(["git", "ls-files"], cwd=deploy, capture_output=True, text=True, check=True)
    known = set(listed.stdout.splitlines())
    others = {path for path in known - made if not path.startswith(("gpu/", "image/", "prometheus/tests/"))}
    assert set() == {path for path in others if not path.endswith((".py", ".md"))}
    recorded = (tmp_path / "manifests.sha256").read_text().splitlines()
    assert sorted(f"{sha256((tmp_path / path).read_bytes()).hexdigest()}  {path}" for path in made) == sorted(recorded)


def test_it_needs_no_tensorflow() -> None:
    """Nor what takes as long: reading a recipe is instant."""
    program = (
        "import sys, tempfile\n"
        "from microtome.commands.cli import main\n"
        "with tempfile.TemporaryDirectory() as out:\n"
        "    assert main(['manifests', 'recipe.yaml', '--out', out]) == 0\n"
        "print({'tensorflow', 'keras', 'numpy', 'fastapi'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


@pytest.mark.parametrize(
    ("backbone", "weights", "fetched"),
    [
        ("EfficientNetLite0", "imagenet", False),
        ("ResNet50", "imagenet", True),
        ("ResNet50", "random", False),
    ],
)
def test_the_exporter_reaches_the_internet_where_weights_are_there(
    tmp_path: Path, backbone: str, weights: str, *, fetched: bool
) -> None:
    """And nowhere else."""
    write(tmp_path, backbone, weights)
    assert run(tmp_path, "--target=kubernetes") == 0
    component = yaml.safe_load((tmp_path / "mine/recipe/kustomization.yaml").read_text())
    assert (["network.yaml"] if fetched else []) == component.get("resources", [])


@pytest.mark.parametrize("target", ["compose", "kubernetes"])
def test_a_target_has_its_own_files(tmp_path: Path, target: str) -> None:
    """A later run for the other target adds the rest, and takes none away."""
    write(tmp_path)
    assert run(tmp_path, f"--target={target}") == 0
    one = files(tmp_path / "mine")
    assert (target == "compose", target == "kubernetes") == ("compose/.env" in one, "kustomization.yaml" in one)
    assert {"recipe/recipe.yaml", "tfserving/models.config", "kubernetes/components/gpu/preflight.sh"} <= one
    assert run(tmp_path, f"--target={'compose' if target == 'kubernetes' else 'kubernetes'}") == 0
    assert {*one, "compose/.env", "kustomization.yaml"} < files(tmp_path / "mine")


@pytest.mark.parametrize("large", [False, True])
def test_files_of_the_recipe_go_along(tmp_path: Path, capsys: pytest.CaptureFixture[str], *, large: bool) -> None:
    """In the ConfigMap, at the place that the recipe names; too large for that, in an image of the exporter."""
    (tmp_path / "names").mkdir()
    (tmp_path / "names" / "my kinds.txt").write_text("a\nb\n")
    (tmp_path / "own.py").write_text("# build\n" * (50_000 if large else 1))
    (tmp_path / "other.txt").write_text("not named")
    recipe = RECIPE.format(name="own", backbone="own:build", weights="own").splitlines(keepends=True)[:-1]
    recipe.append(LABELS.format(labels="names/my kinds.txt"))
    (tmp_path / "recipe.yaml").write_text("".join(recipe))
    assert run(tmp_path) == 0
    said = capsys.readouterr().out
    mine = tmp_path / "mine" / "recipe"
    assert {"recipe.yaml", "own.py", "names/my kinds.txt"} < files(mine)
    assert "other.txt" not in files(mine)
    component = yaml.safe_load((mine / "kustomization.yaml").read_text())
    if large:
        (image,) = component["images"]
        assert f"docker build -t {image['newName']}:{image['newTag']} {mine}" in said
        assert "COPY . /recipe" in (mine / "Dockerfile").read_text()
        assert "patches" not in component
    else:
        (source,) = [one["files"] for one in component["configMapGenerator"] if one["name"] == "recipe"]
        assert ["recipe.yaml", "1-names_my_kinds.txt=names/my kinds.txt", "2-own.py=own.py"] == source
        (patch,) = component["patches"]
        (volume,) = yaml.safe_load(patch["patch"])["spec"]["template"]["spec"]["volumes"]
        assert {"1-names_my_kinds.txt": "names/my kinds.txt", "2-own.py": "own.py", "recipe.yaml": "recipe.yaml"} == {
            item["key"]: item["path"] for item in volume["configMap"]["items"]
        }
    assert "weights of own are fetched" in said


@pytest.mark.parametrize("weights", ["../elsewhere.h5", "/elsewhere.h5", "gateway.env"])
def test_a_file_that_cannot_go_along_is_named_with_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], weights: str
) -> None:
    """Its path would be another one, or none, where the recipe is read."""
    place = tmp_path / "recipes"
    place.mkdir()
    (tmp_path / "elsewhere.h5").touch()
    (place / "gateway.env").touch()
    labels = LABELS.format(labels=weights if weights.endswith("env") else "[a, b]")
    weights = weights.replace("/elsewhere", f"{tmp_path}/elsewhere") if weights.startswith("/") else weights
    words = RECIPE.format(name="own", backbone="own:build", weights="own" if weights.endswith("env") else weights)
    (place / "recipe.yaml").write_text("".join(words.splitlines(keepends=True)[:-1]) + labels)
    assert run(place) == 2
    assert f"recipe.yaml:{6 if weights.endswith('env') else 4}: models[0]." in capsys.readouterr().err
    assert not (place / "mine").exists()


def test_nothing_is_replaced_that_it_did_not_write(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What was changed or is others' is named, and nothing is written; what is no longer needed goes."""
    write(tmp_path, "ResNet50", name="first")
    mine = tmp_path / "mine"
    (mine / "tfserving").mkdir(parents=True)
    (mine / "tfserving" / "models.config").write_text("of others")
    assert run(tmp_path) == 2
    assert "tfserving/models.config were written by others, or changed" in capsys.readouterr().err
    assert {"tfserving/models.config"} == files(mine)
    (mine / "tfserving" / "models.config").unlink()

    assert run(tmp_path) == 0
    (mine / "kustomization.yaml").write_text("mine")
    before = files(mine)
    (mine / "compose" / "compose.yaml").write_text("changed")
    write(tmp_path, name="second")
    assert run(tmp_path) == 2
    assert "first" in (mine / "recipe" / "gateway.env").read_text()
    assert run(tmp_path, "--force") == 0
    assert "MICROTOME_MODELS=second,*" in (mine / "recipe" / "gateway.env").read_text()
    assert (mine / "compose" / "compose.yaml").read_text().startswith("# Everything on one machine.")
    assert ("mine", before) == ((mine / "kustomization.yaml").read_text(), files(mine))

    (tmp_path / "own.py").write_text("def build(): ...")
    (tmp_path / "recipe.yaml").write_text(
        RECIPE.format(name="own", backbone="own:build", weights="own") + "    input: {size: 64, scaling: tf}\n"
    )
    assert run(tmp_path) == 0
    assert {*before, "recipe/own.py"} == files(mine)
    write(tmp_path)
    assert run(tmp_path) == 0
    assert before == files(mine)


def test_what_is_wrong_is_said_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And ends with 2: no recipe, a file for a folder, a folder that cannot be made, a target that is none."""
    assert run(tmp_path, recipe="absent.yaml") == 2
    write(tmp_path)
    (tmp_path / "mine").touch()
    assert run(tmp_path) == 2
    assert main(["manifests", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "mine" / "deeper")]) == 2
    absent, no_folder, impossible = capsys.readouterr().err.splitlines()
    assert ("absent.yaml" in absent, "which is a file" in no_folder, "Not a directory" in impossible) == (True,) * 3
    with pytest.raises(SystemExit, match="2"):
        run(tmp_path, "--target=helm")
    assert "invalid choice: 'helm'" in capsys.readouterr().err
