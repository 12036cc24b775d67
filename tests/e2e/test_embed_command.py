"""`microtome embed` and `search` against a real gateway: no crash of either side loses or doubles a vector."""

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import microtome
from microtome.commands.embed.command import main
from microtome.commands.search.command import main as search_main
from tests.e2e.conftest import Stack
from tests.e2e.photos import example
from tests.e2e.processes import Process, eventually
from tests.pictures import png


def embed(stack: Stack, *words: object, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        command(stack, words), input=stdin, capture_output=True, text=True, timeout=120, check=False, env=quiet()
    )


def command(stack: Stack, words: Sequence[object]) -> list[str]:
    """Its command line."""
    return [sys.executable, "-m", "microtome", "embed", "--url", stack.gateway.url, *map(str, words)]


def quiet() -> dict[str, str]:
    """An environment without a gateway's address in it."""
    return {name: value for name, value in os.environ.items() if not name.startswith("MICROTOME_")}


class Run(Process):
    """The command as a process that can be killed and started again."""

    name = "embed"

    def __init__(self, directory: Path, stack: Stack, *words: object) -> None:
        super().__init__(directory)
        self._words = command(stack, words)

    def words(self) -> list[str]:
        """The command line."""
        return self._words

    def serving(self) -> bool:
        """Whether it goes on."""
        return self.running


def lines(path: Path) -> list[Any]:
    """A file of JSON lines."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def photos(folder: Path, count: int) -> list[Path]:
    """Write small pictures, all different, into folders below a folder."""
    paths = [folder / f"{number % 4}" / f"{number:05}.png" for number in range(count)]
    for number, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(number, 16, 16))
    return sorted(paths)


def expected(stack: Stack, paths: Sequence[Path]) -> Any:
    """The vectors that the client has for files."""
    with microtome.Client(stack.gateway.url) as client:
        return client.embed(list(paths))


def keys(out: Path) -> list[str]:
    """The keys of an array's rows."""
    return lines(out.with_name(f"{out.name}.keys.jsonl"))


def test_a_folder_becomes_an_array_and_the_keys_of_its_rows(stack: Stack, tmp_path: Path) -> None:
    """All images below it, in the order of their names; other files are left alone, and so is what was asked before."""
    paths = photos(tmp_path / "photos", 40)
    (tmp_path / "photos" / "notes.txt").write_text("no image")
    out = tmp_path / "vectors.npy"
    done = embed(stack, tmp_path / "photos", "--out", out)
    assert 0 == done.returncode, done.stderr
    assert "40 of 40 images" in done.stderr
    assert [str(path) for path in paths] == keys(out)
    np.testing.assert_array_equal(np.load(out, mmap_mode="r"), expected(stack, paths))
    about = json.loads((tmp_path / "vectors.npy.about.json").read_text())
    assert ("lite0", 40, 0) == (about["model"]["name"], about["embedded"], about["failed"])
    assert about["model"]["fingerprint"].startswith("sha256:")
    files = {"vectors.npy", "vectors.npy.keys.jsonl", "vectors.npy.about.json"}
    assert files == {path.name for path in tmp_path.iterdir() if path.is_file()}
    again = embed(stack, tmp_path / "photos", "--out", out)
    assert (2, True) == (again.returncode, "--restart" in again.stderr)


def test_bad_images_stand_in_a_side_file(stack: Stack, tmp_path: Path) -> None:
    """They end nothing: the exit code says that there were some, the side file which and why."""
    good = photos(tmp_path / "photos", 3)
    bad = {"broken.jpg": example("cat")[:2000], "empty.png": b"", "text.gif": b"certainly not an image"}
    for name, body in bad.items():
        (tmp_path / "photos" / name).write_bytes(body)
    out = tmp_path / "vectors.jsonl"
    done = embed(stack, tmp_path / "photos", tmp_path / "photos" / "0" / "00000.png", "--out", out, "--output", "early")
    assert 3 == done.returncode
    assert "3 failed" in done.stderr
    rows = lines(out)
    assert [str(path) for path in good] == [row["key"] for row in rows]
    assert {40} == {len(row["early"]) for row in rows}
    faults = {Path(fault["key"]).name: fault["type"] for fault in lines(tmp_path / "vectors.jsonl.errors.jsonl")}
    assert {"broken.jpg": "broken-image", "empty.png": "unreadable-image", "text.gif": "not-an-image"} == faults


def test_lists_patterns_tars_and_columns_become_parquet(stack: Stack, tmp_path: Path) -> None:
    """Each image has a key that leads back to it; several outputs are several columns."""
    paths = photos(tmp_path / "photos", 6)
    for suffix in ("tar", "tar.gz"):
        with tarfile.open(tmp_path / f"shard.{suffix}", "w:gz" if suffix.endswith("gz") else "w") as tar:
            for number, path in enumerate(paths[:2]):
                for name, body in ((f"{number:04}.png", path.read_bytes()), (f"{number:04}.cls", b"7")):
                    member = tarfile.TarInfo(name)
                    member.size = len(body)
                    tar.addfile(member, io.BytesIO(body))
    column = pa.array([paths[0].read_bytes(), None, paths[1].read_bytes()])
    pq.write_table(pa.table({"image": column, "label": [1, 2, 3]}), tmp_path / "in.parquet")
    out = tmp_path / "vectors.parquet"
    words = ("-", tmp_path / "photos" / "*" / "0000[23].png", tmp_path / "shard.tar", tmp_path / "shard.tar.gz")
    options = ("--output", "early", "--output", "top", "--dtype", "float16", "--normalize", "--dimensions", "32")
    listed = f"{paths[0]}\n{paths[1]}\n{paths[0]}\n"
    done = embed(stack, *words, f"{tmp_path}/in.parquet::image", "--out", out, *options, stdin=listed)
    assert 3 == done.returncode, done.stderr
    table = pq.read_table(out)
    tars = [f"{tmp_path}/shard.{suffix}::000{number}.png" for suffix in ("tar", "tar.gz") for number in (0, 1)]
    named = [str(path) for path in paths[:2]] + sorted(str(p) for p in paths if p.stem in {"00002", "00003"})
    assert [*named, *tars, f"{tmp_path}/in.parquet::0", f"{tmp_path}/in.parquet::2"] == table["key"].to_pylist()
    assert {"early": pa.list_(pa.float16(), 32), "top": pa.list_(pa.float16(), 32)} == {
        name: table.schema.field(name).type for name in ("early", "top")
    }
    top = np.stack(table["top"].to_pylist())
    for copies in ((0, 4, 6, 8), (1, 5, 7, 9)):
        for copy in copies:
            np.testing.assert_array_equal(top[copy], top[copies[0]])
    np.testing.assert_allclose(np.linalg.norm(top, axis=1), 1, rtol=1e-2)
    assert json.loads(table.schema.metadata[b"microtome"])["model"]["name"] == "lite0"
    assert [f"{tmp_path}/in.parquet::1"] == [fault["key"] for fault in lines(tmp_path / "vectors.parquet.errors.jsonl")]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["kill -9", "Ctrl-C"])
def test_a_run_that_was_ended_goes_on_where_it_was(
    stack: Stack, directory: Path, tmp_path: Path, number: signal.Signals
) -> None:
    """Nothing is lost, nothing is there twice, and what was done is not asked for again."""
    paths = photos(tmp_path / "photos", 120)
    out, journal = tmp_path / "vectors.npy", tmp_path / "vectors.npy.journal"
    run = Run(directory, stack, tmp_path / "photos", "--out", out, "--concurrency", "2", "--batch", "2")
    run.launch()
    eventually(lambda: journal.exists() and journal.stat().st_size > 60_000, "some vectors are in the journal")
    run.send(number)
    assert run.wait() == (130 if number == signal.SIGINT else -signal.SIGKILL)
    assert not out.exists()
    before = images_asked(stack)
    done = embed(stack, tmp_path / "photos", "--out", out)
    assert 0 == done.returncode, done.stderr
    first = int(done.stderr.partition("going on after ")[2].split()[0])
    assert 0 < first < 120
    # What was on its way when the run ended may have been counted after `before` was.
    assert 120 - first <= images_asked(stack) - before <= 120 - first + 2 * 2 * 2
    assert [str(path) for path in paths] == keys(out)
    np.testing.assert_array_equal(np.load(out), expected(stack, paths))
    assert not journal.exists()


def test_a_gateway_that_is_killed_is_waited_for(stack: Stack, directory: Path, tmp_path: Path) -> None:
    """The run says so, goes on when it is back, and ends complete."""
    paths = photos(tmp_path / "photos", 120)
    out, journal = tmp_path / "vectors.npy", tmp_path / "vectors.npy.journal"
    run = Run(directory, stack, tmp_path / "photos", "--out", out, "--concurrency", "2", "--batch", "2")
    run.log.unlink(missing_ok=True)
    run.launch()
    eventually(lambda: journal.exists() and journal.stat().st_size > 60_000, "some vectors are in the journal")
    stack.gateway.kill()
    eventually(lambda: "waiting, and trying again" in run.last_lines(), "it says that it waits")
    assert run.running
    stack.gateway.start()
    assert 0 == run.wait(120), run.last_lines()
    assert "the gateway answers again" in run.last_lines()
    assert [str(path) for path in paths] == keys(out)
    np.testing.assert_array_equal(np.load(out), expected(stack, paths))


def test_vectors_of_two_runs_are_never_mixed(
    stack: Stack, directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was begun with other options is not gone on with, unless it starts over."""
    photos(tmp_path / "photos", 60)
    out, journal = tmp_path / "vectors.jsonl", tmp_path / "vectors.jsonl.journal"
    run = Run(directory, stack, tmp_path / "photos", "--out", out, "--concurrency", "1", "--batch", "1")
    run.launch()
    eventually(lambda: journal.exists() and journal.stat().st_size > 12_000, "some vectors are in the journal")
    run.kill()
    words = (*command(stack, (tmp_path / "photos", "--out", out, "--output", "early"))[3:],)
    assert 2 == main(words)
    assert "output was [], is ['early']" in capsys.readouterr().err
    assert 0 == main([*words, "--restart"])
    assert [{"key", "early"}] * 60 == [set(row) for row in lines(out)]


def test_a_result_is_written_by_one_run(
    stack: Stack, directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another one beside it, also one that starts over, changes nothing and says which process it is."""
    paths = photos(tmp_path / "photos", 9)
    out, lock = tmp_path / "vectors.npy", tmp_path / "vectors.npy.lock"
    words = command(stack, (tmp_path / "photos", "--out", out))[3:]
    assert 0 == main(words)
    # The first run waits for a gateway that does not exist.
    run = Run(directory, stack, tmp_path / "photos", "--out", out, "--restart", "--url", "http://127.0.0.1:9")
    run.log.unlink(missing_ok=True)
    run.launch()
    eventually(lambda: "waiting, and trying again" in run.last_lines(), "it holds the lock and waits")
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    assert {out, lock} < set(before)
    for more in ([], ["--restart"]):
        assert 2 == main([*words, *more])
        assert f"{out} is being written by process {run.pid} on " in capsys.readouterr().err
    assert before == {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    run.kill()
    assert 0 == main([*words, "--restart"])
    assert [str(path) for path in paths] == keys(out)
    assert not lock.exists()


@pytest.mark.parametrize(
    ("name", "told"), [("vectors.npy.journal", "journal"), (".vectors.npy.unfinished", "vectors.npy")]
)
def test_a_full_disk_is_one_line(
    stack: Stack, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, told: str
) -> None:
    """Wherever it is full; what is done is kept, and the same command goes on when there is room."""
    photos(tmp_path / "photos", 3)
    (tmp_path / name).symlink_to("/dev/full")
    words = command(stack, (tmp_path / "photos", "--out", tmp_path / "vectors.npy"))[3:]
    assert 2 == main(words)
    (said,) = (line for line in capsys.readouterr().err.splitlines() if "cannot be written" in line)
    assert f"{told} cannot be written: No space left on device. What is done so far is kept: make room" in said
    assert not (tmp_path / "vectors.npy").exists()
    (tmp_path / name).unlink(missing_ok=True)
    assert 0 == main(words)
    assert (3, 1280) == np.load(tmp_path / "vectors.npy").shape


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere", "--out", "{tmp}/a.npy"], "nothing there"),
        (["{tmp}", "--out", "{tmp}/a.npy", "--model", "lite9"], "'lite9'"),
        (["{tmp}", "--out", "{tmp}/a.npy", "--output", "topp"], "topp"),
        (["{tmp}", "--out", "{tmp}/a.npy", "--version", "7"], "version"),
        (["{tmp}", "--out", "{tmp}/a.npy", "--output", "all"], "holds one output"),
        (["{tmp}", "--out", "{tmp}/a.csv"], ".parquet, .npy, .jsonl"),
        (["{tmp}/nowhere.parquet::image", "--out", "{tmp}/a.npy"], "nothing there"),
        (["{tmp}", "--out", "{tmp}/nowhere/a.npy"], "there is no folder"),
        (["{tmp}", "--out", "/proc/a.npy"], "/proc/a.npy.lock cannot be written"),
    ],
)
def test_what_cannot_be_done_is_said(
    stack: Stack, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    """Exit code 2, and a sentence that says what was expected."""
    photos(tmp_path, 1)
    with pytest.raises(SystemExit) as ended:
        sys.exit(main(["embed", "--url", stack.gateway.url, *(word.format(tmp=tmp_path) for word in words)]))
    assert 2 == ended.value.code
    assert said in capsys.readouterr().err
    assert not list(tmp_path.glob("a.npy*"))


def images_asked(stack: Stack) -> int:
    """How many vectors the gateway has been asked for, cached or not."""
    with stack.gateway.client() as client:
        counted = [
            line for line in client.get("/metrics").text.splitlines() if line.startswith("microtome_vectors_total{")
        ]
    return int(sum(float(line.rpartition(" ")[2]) for line in counted))


def search(stack: Stack, capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, Any, str]:
    """Search in this process; return exit code, JSON and what standard error has."""
    code = search_main(["search", *map(str, words), "--json", "--url", stack.gateway.url])
    said = capsys.readouterr()
    return code, json.loads(said.out or "{}"), said.err


def test_search_finds_the_nearest_and_embeds_only_what_has_changed(
    stack: Stack, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The order is that of the client's cosines; the photo itself is left out, its copy is not."""
    folder = tmp_path / "photos"
    paths = photos(folder, 9)
    for name in ("cat", "copy"):
        (folder / f"{name}.jpg").write_bytes(example("cat"))
    (folder / "broken.jpg").write_bytes(b"no image")
    code, found, said = search(stack, capsys, folder, folder / "cat.jpg", "--top", 4, "--html", tmp_path / "out.html")
    assert (0, 11, "12 of 12 images" in said) == (code, found["photos"], True), said
    assert ["not-an-image"] == [one["type"] for one in found["failed"]]
    with microtome.Client(stack.gateway.url) as client:
        cat, *others = client.embed([folder / "cat.jpg", folder / "copy.jpg", *paths], normalize=True)
    cosines = np.stack(others) @ cat
    names = ["copy.jpg", *(str(path.relative_to(folder)) for path in paths)]
    best = sorted(range(10), key=lambda row: -cosines[row])[:4]
    (result,) = found["results"]
    assert [names[row] for row in best] == [near["photo"] for near in result["nearest"]]
    np.testing.assert_allclose([near["score"] for near in result["nearest"]], cosines[best], atol=2e-6)
    page = (tmp_path / "out.html").read_text()
    assert (5, True) == (page.count('src="data:image/webp;base64,'), "http" not in page.replace("http-equiv", ""))
    kept = tmp_path / "photos.lite0.top.npy"
    assert (11, 1280) == np.load(kept).shape == np.load(kept, mmap_mode="r").shape
    before = kept.stat()
    assert "images, " not in search(stack, capsys, folder, paths[0])[2]
    assert before == kept.stat()
    paths[0].unlink()
    paths[1].write_bytes(png(77, 17, 17))
    (folder / "new.png").write_bytes(png(78, 16, 16))
    code, found, said = search(stack, capsys, folder, folder / "cat.jpg", tmp_path / "absent.jpg", "--top", 100)
    assert (3, 11, "2 of 2 images" in said, "absent.jpg cannot be looked for" in said) == (
        code,
        found["photos"],
        True,
        True,
    )
    listed = [near["photo"] for near in found["results"][0]["nearest"]]
    assert (10, True, False) == (len(listed), "new.png" in listed, str(paths[0].relative_to(folder)) in listed)
    code, _, said = search(stack, capsys, folder, paths[2], "--output", "early", "--vectors", kept)
    assert (2, "which do not compare" in said) == (code, True)
    assert 0 == search(stack, capsys, folder, paths[2], "--output", "early")[0]
    assert {"photos.lite0.top.npy", "photos.lite0.early.npy", "out.html"} == {
        path.name for path in tmp_path.iterdir() if path.is_file()
    }


def test_a_search_that_cannot_be_done_is_a_sentence(
    stack: Stack, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 2, what was expected, and nothing is left behind."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    photos(tmp_path / "photos", 1)
    (tmp_path / "cat.jpg").write_bytes(example("cat"))
    np.save(tmp_path / "other.npy", np.zeros((2, 2), np.float32))
    before = sorted(tmp_path.rglob("*"))
    for words, expected in (
        ("absent cat.jpg", "Expected a folder of photos"),
        ("empty cat.jpg", "There are no images"),
        ("photos absent.jpg", "There is nothing to look for"),
        ("photos cat.jpg --model=lite9", "Expected --model to be one of lite0"),
        ("photos cat.jpg --output=erly", "Nearest: early"),
        ("photos cat.jpg --vectors=other.npy", "is not what an earlier microtome search has kept"),
        ("photos cat.jpg --url=http://127.0.0.1:9", "Start one with microtome up"),
    ):
        assert 2 == search_main(["search", "--url", stack.gateway.url, *words.split()])
        assert expected in capsys.readouterr().err
    assert before == sorted(tmp_path.rglob("*"))
