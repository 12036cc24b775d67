"""Publishing: whole versions or nothing."""

from __future__ import annotations

import fcntl
import os
from dataclasses import replace
from pathlib import Path

import pytest

from exporter.errors import CannotPublish
from exporter.recipe.resolved import ModelRecipe
from exporter.savedmodel.publication import ASSETS, RECIPE_FILE, draft_version, published_version
from tests.unit.exporter.small_models import small_recipe


def publish(models: Path, recipe: ModelRecipe) -> Path:
    """Publish a version that has nothing but its recipe."""
    with draft_version(models, recipe.name) as draft:
        (draft.directory / ASSETS).mkdir()
        (draft.directory / ASSETS / RECIPE_FILE).write_text(recipe.canonical(), encoding="utf-8")
        return draft.publish()


def test_versions_count_up_from_one(tmp_path: Path) -> None:
    """The next version is one more than the newest, whatever gaps and other entries there are."""
    assert publish(tmp_path, small_recipe()).name == "1"
    for entry in ("7", "latest", ".tmp-file", "9x"):
        (tmp_path / "small" / entry).mkdir()
    assert publish(tmp_path, small_recipe()).name == "8"


def test_published_version_can_be_read_by_others(tmp_path: Path) -> None:
    """A model server under another user reads what was published."""
    assert publish(tmp_path, small_recipe()).stat().st_mode & 0o777 == 0o755


def test_draft_is_hidden_until_it_is_published(tmp_path: Path) -> None:
    """While a version is written nothing that looks like a version is there."""
    with draft_version(tmp_path, "small") as draft:
        assert [path.name[0] for path in (tmp_path / "small").iterdir()] == ["."]
        draft.publish()
    assert [path.name for path in (tmp_path / "small").iterdir()] == ["1"]


def test_failed_run_leaves_nothing(tmp_path: Path) -> None:
    """An error between draft and publication takes the draft with it."""

    def fail() -> None:
        with draft_version(tmp_path, "small") as draft:
            (draft.directory / "saved_model.pb").touch()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert list((tmp_path / "small").iterdir()) == []


def test_drafts_of_dead_runs_are_taken_away_and_those_of_living_ones_stay(tmp_path: Path) -> None:
    """A draft belongs to the run that holds its lock; without a lock it is removed."""
    dead, alive = tmp_path / "small" / ".tmp-dead", tmp_path / "small" / ".tmp-alive"
    for directory in (dead, alive):
        directory.mkdir(parents=True)
        (directory / "saved_model.pb").touch()
    holder = os.open(alive, os.O_RDONLY)
    try:
        fcntl.flock(holder, fcntl.LOCK_EX)
        publish(tmp_path, small_recipe())
        assert sorted(path.name for path in (tmp_path / "small").iterdir()) == [".tmp-alive", "1"]
    finally:
        os.close(holder)


def test_two_runs_at_once_publish_two_versions(tmp_path: Path) -> None:
    """Neither run overwrites the other's version or takes its draft away."""
    with draft_version(tmp_path, "small") as first, draft_version(tmp_path, "small") as second:
        (first.directory / "first").touch()
        (second.directory / "second").touch()
        assert [second.publish().name, first.publish().name] == ["1", "2"]
    assert (tmp_path / "small" / "1" / "second").exists()
    assert (tmp_path / "small" / "2" / "first").exists()


def test_recipe_of_the_newest_version_is_recognised(tmp_path: Path) -> None:
    """What was made from this very entry need not be made again; what was made from another must."""
    recipe = small_recipe()
    assert published_version(tmp_path, recipe) is None
    publish(tmp_path, recipe)
    assert published_version(tmp_path, recipe) == 1
    other = replace(recipe, max_batch_size=8)
    publish(tmp_path, other)
    assert published_version(tmp_path, recipe) is None
    assert published_version(tmp_path, other) == 2


@pytest.mark.parametrize("content", [None, "", "{", "[]"])
def test_version_without_a_readable_recipe_is_not_taken_for_ours(tmp_path: Path, content: str | None) -> None:
    """A SavedModel from elsewhere is never mistaken for the recipe's."""
    assets = tmp_path / "small" / "1" / ASSETS
    assets.mkdir(parents=True)
    if content is not None:
        (assets / RECIPE_FILE).write_text(content, encoding="utf-8")
    assert published_version(tmp_path, small_recipe()) is None


def test_directory_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    """A models directory that is a file is a user's mistake, not a traceback."""
    models = tmp_path / "models"
    models.touch()
    with pytest.raises(CannotPublish, match=r"a version of small under .*models\. Received: Not a directory"):
        publish(models, small_recipe())
