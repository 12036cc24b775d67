"""The manifest of a folder of shards: what is named is there once, what is not named is done again."""

import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from microtome.commands.embed import shards, sources
from microtome.commands.embed.archives import Archive
from microtome.commands.embed.errors import EmbedError
from microtome.commands.embed.keyed_images import ImageFile, KeyedText, Rules
from microtome.commands.embed.shards import Manifest, Piece, Receipt, read_piece

HEAD = {"model": "m", "version": 1, "sources": ["photos"], "output": []}
MODEL = {"name": "m", "version": 1, "fingerprint": "sha256:aa"}
NAMES = [f"vectors-{number:032x}" for number in range(9)]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A folder that is not there yet."""
    return tmp_path / "vectors"


def begun(out: Path, *, restart: bool = False) -> Manifest:
    """A run of two pieces of files and a tar."""
    manifest = Manifest(str(out), restart=restart)
    manifest.begin(HEAD, [Piece(["a", "b", "c"]), Piece(["d"]), Piece(archive=Archive("t.tar"))])
    return manifest


Places = Mapping[int, Sequence[shards.Range]]


def written(out: Path, number: int, places: Places, ends: Mapping[int, int] | None = None, failed: int = 0) -> Receipt:
    """What a worker writes, and says."""
    rows = sum(end - first for held in places.values() for first, end in held) - failed
    unfinished = out / "_microtome" / "unfinished"
    if rows:
        (unfinished / f"{NAMES[number]}.parquet").write_bytes(b"rows")
    if failed:
        (unfinished / f"{NAMES[number]}.jsonl").write_bytes(b"{}\n")
    return Receipt.read(json.loads(Receipt(NAMES[number], rows, failed, places, ends or {}, MODEL).json()))


def shown(out: Path) -> set[str]:
    """The shards that a reader of the folder sees."""
    return {path.name for path in out.glob("*.parquet")}


def test_a_run_goes_on_with_what_no_shard_holds(out: Path) -> None:
    """Places of pieces, and where a tar ends, survive; what was written and not named is removed."""
    first = begun(out)
    assert first.images is None
    assert first.commit(written(out, 0, {0: [(0, 2)], 2: [(0, 5)]}, failed=1))
    first.save()
    written(out, 1, {1: [(0, 1)]})
    second = begun(out)
    assert {f"{NAMES[0]}.parquet"} == shown(out)
    assert [] == list((out / "_microtome" / "unfinished").iterdir())
    assert [(0, [(0, 2)]), (1, []), (2, [(0, 5)])] == second.left()
    assert (6, 1) == (second.embedded, second.failed)
    assert second.commit(written(out, 2, {0: [(2, 3)], 1: [(0, 1)]}, {2: 5}))
    assert [] == second.left()
    second.finish()
    assert begun(out).complete
    assert {f"{NAMES[0]}.parquet", f"{NAMES[2]}.parquet"} == shown(out)


def test_a_shard_that_repeats_an_image_is_not_named(out: Path) -> None:
    """Ray runs a task again whose worker died after writing; its other images are then left."""
    manifest = begun(out)
    assert manifest.commit(written(out, 0, {0: [(0, 2)]}))
    for again in ({0: [(1, 3)]}, {0: [(0, 1)]}, {0: [(0, 3)], 1: [(0, 1)]}):
        assert not manifest.commit(written(out, 1, again))
    manifest.save()
    assert [(0, [(0, 2)]), (1, []), (2, [])] == manifest.left()
    assert {f"{NAMES[0]}.parquet"} == shown(out)


def test_what_was_named_and_not_moved_is_moved_by_the_next_run(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver may be killed between the manifest and the folder."""
    manifest = begun(out)
    with monkeypatch.context() as patch:
        patch.setattr(Manifest, "_publish", lambda *_: None)
        manifest.commit(written(out, 0, {0: [(0, 3)]}))
        manifest.save()
    assert set() == shown(out)
    begun(out)
    assert {f"{NAMES[0]}.parquet"} == shown(out)


def test_a_shard_that_is_gone_is_said(out: Path) -> None:
    """A run does not go on without what it has told."""
    manifest = begun(out)
    manifest.commit(written(out, 0, {0: [(0, 3)]}))
    manifest.save()
    (out / f"{NAMES[0]}.parquet").unlink()
    with pytest.raises(EmbedError, match="is gone"):
        begun(out)
    assert [(0, []), (1, []), (2, [])] == begun(out, restart=True).left()


def test_another_model_is_not_kept(out: Path) -> None:
    """Under one version there may be another model."""
    manifest = begun(out)
    manifest.commit(written(out, 0, {0: [(0, 2)]}))
    with pytest.raises(EmbedError, match="do not compare"):
        manifest.commit(replace(written(out, 1, {0: [(2, 3)]}), model={**MODEL, "fingerprint": "sha256:bb"}))


def test_both_towers_of_one_space_are_kept(out: Path) -> None:
    """In one shard or in several; those of another space are not."""
    manifest = begun(out)
    image, text = ({**MODEL, "fingerprint": tower, "tower": tower, "space": "sha256:ab"} for tower in ("image", "text"))
    for number, model in enumerate((image, {**image, "also": text}, text)):
        assert manifest.commit(replace(written(out, number, {0: [(number, number + 1)]}), model=model))
    assert manifest.model == {**image, "also": text}
    with pytest.raises(EmbedError, match="do not compare"):
        manifest.commit(replace(written(out, 3, {1: [(0, 1)]}), model={**text, "space": "sha256:cd"}))


def test_other_options_are_another_run(out: Path) -> None:
    """They are named."""
    begun(out)
    with pytest.raises(EmbedError, match="version was 1, is 2"):
        Manifest(str(out), restart=False).begin({**HEAD, "version": 2}, [])


@pytest.mark.parametrize("restart", [False, True])
def test_files_of_others_are_left_alone(out: Path, restart: bool) -> None:
    """A folder with a Parquet file of another origin is not taken; nothing is removed."""
    out.mkdir()
    (out / "part-0.parquet").write_bytes(b"mine")
    with pytest.raises(EmbedError, match=r"part-0\.parquet"):
        begun(out, restart=restart)
    assert (out / "part-0.parquet").exists()


def test_restarting_removes_the_shards_of_before(out: Path) -> None:
    """And nothing else."""
    manifest = begun(out)
    manifest.commit(written(out, 0, {0: [(0, 2)]}))
    manifest.save()
    (out / "notes.txt").touch()
    begun(out, restart=True)
    assert {"_microtome", "notes.txt"} == {path.name for path in out.iterdir()}


def test_the_plan_is_what_is_listed_once(out: Path, tmp_path: Path) -> None:
    """Small pieces at first; names that are not UTF-8; row groups; what is named twice is in it once."""
    folder = tmp_path / "photos"
    folder.mkdir()
    names = [os.fsdecode(b"\xff.jpg"), *(f"{number:03}.jpg" for number in range(150))]
    for name in names:
        (folder / name).touch()
    pq.write_table(pa.table({"image": [b"x"] * 7}), tmp_path / "t.parquet", row_group_size=4)
    (tmp_path / "captions.txt").write_text("a cat\n\na dog\n")
    words = [str(folder), f"{folder}/00*.jpg", f"{tmp_path}/captions.txt", f"{tmp_path}/t.parquet::image"]
    texts = (KeyedText(text, text) for text in ("a hat", "\udcff", "a hat"))
    found = list(shards.pieces(chain(texts, sources.listed(words, io.StringIO())), several=True))
    assert [2, 128, 23, -1, 4, 3] == [piece.count for piece in found]
    manifest = Manifest(str(out), restart=False)
    manifest.begin(HEAD, found)
    assert manifest.images is None
    read = [read_piece(manifest.own("plan.arrow"), number) for number in range(len(found))]
    assert [[image.key for image in one.images(Rules())] for one in found] == [
        [image.key for image in one.images(Rules())] for one in read
    ]
    assert [f"{tmp_path}/t.parquet::{row}" for row in (4, 5, 6)] == [image.key for image in read[-1].images(Rules())]
    said = [(one.key, one.text) for part in read for one in part.images(Rules()) if isinstance(one, KeyedText)]
    lines = [(f"{tmp_path}/captions.txt:1", "a cat"), (f"{tmp_path}/captions.txt:3", "a dog")]
    assert [("a hat", "a hat"), ("\udcff", "\udcff"), *lines] == said
    (image, *_) = [image for one in read for image in one.images(Rules()) if image.key.endswith(names[0])]
    assert isinstance(image, ImageFile)
    assert b"" == image()


def test_a_store_is_listed_and_read_as_a_folder(out: Path, tmp_path: Path) -> None:
    """By addresses, here of local files; patterns match within names, and ** any folders."""
    for name in ("a/1.jpg", "a/b/2.jpg", "a/b/no.txt", "c/3.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    root = f"file://{tmp_path}"

    def listed(*words: str) -> list[str]:
        return [image.key.removeprefix(root) for image in sources.images(words, io.StringIO())]

    assert ["/a/1.jpg", "/a/b/2.jpg", "/c/3.png"] == listed(root)
    assert ["/a/1.jpg", "/a/b/2.jpg"] == listed(f"{root}/**/*.jpg")
    assert ["/a/1.jpg", "/c/3.png"] == listed(f"{root}/[ac]/*.?[np]g")
    assert ["/c/3.png"] == listed(f"{root}/c/3.png")
    (image,) = sources.images([f"{root}/a/b/2.jpg"], io.StringIO())
    assert isinstance(image, ImageFile)
    assert b"a/b/2.jpg" == image()
    assert ["/a/b/no.txt:1"] == listed(f"{root}/a/b/no.txt") == listed(f"{root}/**/*.txt")
    for word in (f"{root}/nothing", f"{root}/*.gif"):
        with pytest.raises(EmbedError, match="found nothing there"):
            listed(word)
    with pytest.raises(EmbedError, match="Expected a path, s3:// or gs://"):
        listed("nowhere://bucket/photos")
