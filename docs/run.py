"""Run what the pages show, in order and as it stands: `make docs-run`, or `python docs/run.py [--keep] [PAGE ...]`.

Each page has a clone of its own with what `make setup` installed, an empty HOME, and a shell that takes its commands as
a reader types them. Servers are really started, on the ports that the page names: in a network of their own, from which
nothing else is reached, where the system allows it. The first command that fails, or prints something else than the
page says, ends its page with page:line, the command and its output. The language of a block says how it is run:

* sh: command by command. One that serves gets a terminal of its own. It is stopped, as by Ctrl-C, when another one
  wants its port, and at the page's end. python: as a program. yaml: read as a recipe, whole or a part of one.
* json, text: what the block before has printed. An ellipsis stands for anything; numbers are as precise as shown.

Comments before a block say what a reader need not see:

    <!-- not run: REASON -->    it needs Docker, a cluster, a network, a GPU, or much time
    <!-- shows: REASON -->      a form, which is not typed
    <!-- file: NAME -->         the block is a file: compared with it if it exists, else written
    <!-- with: PYTHON -->       what runs this program, in place of .venv/bin/python
    <!-- first: COMMANDS -->    commands that make what a reader has, such as photos
    <!-- serving: COMMAND -->   the page shares the server that this command starts with other pages

What is not run is listed with its reason, and MARKED says how many blocks that may be.
"""

import argparse
import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from markdown_it import MarkdownIt
from terminals import SERVES, Failed, Server, Terminal, port_of

from exporter.errors import ExporterError
from exporter.recipe.reading import read_recipe

REPOSITORY = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "docs/*.md", "docs/guides/*.md", "docs/runbooks/*.md", "deploy/README.md")
MARKED = Counter({"not run": 25, "shows": 24})
"""How many blocks may carry each mark: never more, and to be lowered with each that goes."""

MARKS = ("not run", "shows", "file", "with", "first", "serving")
REASONS = ("Docker", "a cluster", "a network", "a GPU", "time")
"""How the reason of a block that is not run begins."""
COMMENT = re.compile(r"<!--\s*([a-z ]+):\s(.*?)\s*-->", re.DOTALL)


@dataclass(slots=True)
class Block:
    """A fenced block, or commands in a comment, with the marks before it.

    Attributes:
        line: Where its text begins; the first line of the page is 1.
        language: The word behind the fence; `first` for commands in a comment.
    """

    page: str
    line: int
    language: str
    text: str
    marks: dict[str, str] = field(default_factory=dict)

    def reason(self) -> tuple[str, str] | None:
        """The mark that keeps it from being run, and why."""
        if self.language == "promql":
            return "shows", "make test-deploy parses it"
        return next(((mark, self.marks[mark]) for mark in ("not run", "shows") if mark in self.marks), None)


def pages() -> list[str]:
    """List the pages, the README first."""
    return [str(path.relative_to(REPOSITORY)) for part in PAGES for path in sorted(REPOSITORY.glob(part))]


def read(page: str) -> tuple[list[Block], str | None]:
    """Return a page's blocks in order, and the command of the server that it shares with others.

    Raises:
        Failed: A mark is unknown, or stands before no block.
    """
    blocks: list[Block] = []
    marks: dict[str, str] = {}
    serving = None
    for token in MarkdownIt().parse((REPOSITORY / page).read_text(encoding="utf-8")):
        line = token.map[0] + 1 if token.map else 0
        if token.type == "html_block":
            for mark, text in COMMENT.findall(token.content):
                if mark not in MARKS:
                    raise Failed(line, f"{page}: <!-- {mark}:", f"Expected one of {', '.join(MARKS)}.")
                if mark == "not run" and not text.startswith(REASONS):
                    raise Failed(line, f"{page}: not run: {text}", f"Expected one of {', '.join(REASONS)} first.")
                if mark == "serving":
                    serving = text
                elif mark == "first":
                    blocks.append(Block(page, line, "first", text + "\n"))
                else:
                    marks[mark] = text
        elif token.type in {"fence", "code_block"}:
            language = (token.info.split() or [""])[0]
            blocks.append(Block(page, line + 1, language, token.content, marks))
            marks = {}
    if marks:
        raise Failed(0, f"{page}: {marks}", "Expected a block after the mark.")
    return blocks, serving


def commands(block: Block) -> Iterator[tuple[int, str]]:
    """Yield the commands of a block of shell, each with its line; one may take several lines."""
    start, taken = block.line, ""
    for number, line in enumerate(block.text.splitlines(keepends=True), block.line):
        start = start if taken else number
        taken += line
        if line.rstrip("\n").endswith("\\"):
            continue
        # bash warns of an unfinished here-document, and refuses what is unfinished otherwise.
        checked = subprocess.run(["bash", "-n"], input=taken, capture_output=True, text=True, check=False)  # noqa: S607
        if checked.returncode or checked.stderr:
            continue
        if re.sub(r"^\s*#.*", "", taken, flags=re.MULTILINE).strip():
            yield start, taken.rstrip("\n")
        taken = ""
    if taken.strip():
        raise Failed(start, taken, "This is no whole command of a shell.")


def clone(directory: Path) -> Path:
    """Return a clone of the working tree with what is not committed yet, and the environment that is installed."""
    git = ["git", "-C", str(directory), "-c", "user.name=docs", "-c", "user.email=docs@localhost"]

    def call(*words: str) -> str:
        return subprocess.run(words, check=True, capture_output=True, text=True).stdout  # noqa: S603 - our own words

    call("git", "clone", "--quiet", str(REPOSITORY), str(directory))
    listed = call("git", "-C", str(REPOSITORY), "ls-files", "-zmdo", "--exclude-standard")
    for name in filter(None, listed.split("\0")):
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).unlink(missing_ok=True)
        if (REPOSITORY / name).exists():
            shutil.copyfile(REPOSITORY / name, directory / name)
    call(*git, "add", "--all")
    call(*git, "commit", "--quiet", "--allow-empty", "--no-verify", "--message", "as it is")
    environment = directory / ".venv"
    environment.mkdir()
    # make knows an environment by the place that its stamp names, and by the stamp's time.
    for entry in (REPOSITORY / ".venv").iterdir():
        if entry.is_file() and entry.name.startswith("."):
            stamp = entry.read_text(encoding="utf-8").replace(str(REPOSITORY), str(directory))
            (environment / entry.name).write_text(stamp, encoding="utf-8")
        else:
            (environment / entry.name).symlink_to(entry)
    return directory


def reader(home: Path) -> dict[str, str]:
    """Return the environment of a reader's terminal. There, curl fails when a server answers with an error."""
    home.mkdir()
    (home / ".curlrc").write_text("fail-with-body\nsilent\nshow-error\n", encoding="utf-8")
    kept = {name: os.environ[name] for name in ("LANG", "LC_ALL", "PATH") if name in os.environ}
    words = [word for word in kept["PATH"].split(os.pathsep) if not Path(word).is_relative_to(REPOSITORY)]
    return {**kept, "PATH": os.pathsep.join(words), "HOME": str(home), "TMPDIR": tempfile.gettempdir(), "TERM": "dumb"}


class Page:
    """A page that is being run: its clone, its terminal, its servers, and what was printed last."""

    def __init__(self, directory: Path, blocks: list[Block]) -> None:
        directory.mkdir()
        self._directory = clone(directory / "microtome")
        self._environment = reader(directory / "home")
        if not any("bin/activate" in block.text for block in blocks):
            binaries = self._directory / ".venv" / "bin"
            self._environment["PATH"] = f"{binaries}{os.pathsep}{self._environment['PATH']}"
        self._terminals = [Terminal(self._directory, self._environment)]
        self._servers: list[Server] = []
        self._printed: tuple[int, str] | None = None

    def run(self, block: Block) -> None:
        """Run a block.

        Raises:
            Failed: It does not do what the page says.
        """
        if "file" in block.marks:
            self._file(block, block.marks["file"])
        elif block.language in {"sh", "first"}:
            self._shell(block)
        elif block.language == "python":
            program = Path(self._environment["HOME"]) / f"line{block.line}.py"
            program.write_text("\n" * (block.line - 1) + block.text, encoding="utf-8")
            python = block.marks.get("with", ".venv/bin/python")
            words = f"PYTHONPATH={self._directory} {python} {program}"
            self._printed = block.line, self._terminals[0].run(block.line, words)
        elif block.language == "yaml":
            self._recipe(block)
        elif block.language in {"json", "text"}:
            self._compare(block)
        else:
            raise Failed(block.line, f"```{block.language}", "Expected sh, python, yaml, json, text or a mark.")

    def serve(self, line: int, command: str) -> None:
        """Start a server in a terminal of its own; one that has its port is stopped before."""
        for server in [server for server in self._servers if server.port == port_of(command)]:
            server.stop()
            self._servers.remove(server)
        self._servers.append(self._terminals[-1].start(line, command))

    def close(self) -> None:
        """Stop the servers, the last one first, and end the terminals."""
        for server in reversed(self._servers):
            server.stop()
        for terminal in self._terminals:
            terminal.close()

    def _shell(self, block: Block) -> None:
        found = list(commands(block))
        serving = [number for number, (_, command) in enumerate(found) if SERVES.match(command)]
        if serving and block.language == "sh":
            if serving != [len(found) - 1]:
                line, command = found[serving[0]]
                raise Failed(line, command, "It serves until Ctrl-C: what stands below it in the block never runs.")
            self._terminals.append(Terminal(self._directory, self._environment))
        for line, command in found:
            if SERVES.match(command):
                self.serve(line, command)
            else:
                self._printed = line, self._terminals[-1 if serving else 0].run(line, command)

    def _file(self, block: Block, name: str) -> None:
        path = self._directory / name
        if path.exists() and path.read_text(encoding="utf-8") != block.text:
            raise Failed(block.line, name, f"The page shows another text than the file has:\n{path.read_text()}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.text, encoding="utf-8")

    def _recipe(self, block: Block) -> None:
        """Read a recipe, or a part of one with what it lacks."""
        part = yaml.safe_load(block.text)
        rest = {"name": "part", "backbone": "EfficientNetLite0", "weights": "imagenet"}
        models = part.get("models", [part])
        outputs = [{"name": "top", "layer": "top_activation"}]
        whole = [model if "compat" in model else {**rest, "outputs": outputs, **model} for model in models]
        path = self._directory / "shown.yaml"
        path.write_text(yaml.safe_dump({"models": whole}, sort_keys=False), encoding="utf-8")
        try:
            read_recipe(path)
        except ExporterError as error:
            raise Failed(block.line, "a recipe", str(error)) from None
        path.unlink()

    def _compare(self, block: Block) -> None:
        if self._printed is None:
            raise Failed(block.line, "", "Nothing before this block has printed anything.")
        line, printed = self._printed
        if block.language == "json":
            with suppress(ValueError):
                if alike(shown_json(block.text), json.loads(printed)):
                    return
        elif alike_lines(block.text.splitlines(), printed.splitlines()):
            return
        raise Failed(line, f"not what line {block.line} shows", f"{block.text}came:\n{printed[:4000]}")


def shown_json(text: str) -> Any:  # noqa: ANN401 - JSON
    """Return JSON of a page, in which a bare ellipsis becomes "…", a value or a key."""
    text = re.sub(r"([{,]\s*)…(?=\s*})", r'\1"…": 0', text)
    return json.loads(re.sub(r"([\[,:]\s*)…(?=\s*[]},])", r'\1"…"', text))


def alike(shown: Any, came: Any) -> bool:  # noqa: ANN401 - JSON
    """Whether JSON is what a page shows, where "…" is any value, the rest of a list or text, or other keys."""
    match shown, came:
        case dict(), dict():
            return (shown.keys() == came.keys() or "…" in shown) and all(
                key == "…" or (key in came and alike(shown[key], came[key])) for key in shown
            )
        case list(), list():
            open_end = bool(shown) and shown[-1] == "…"
            kept = shown[:-1] if open_end else shown
            fits = len(came) >= len(kept) if open_end else len(came) == len(kept)
            return fits and all(map(alike, kept, came))
        case str(), _ if shown == "…":
            return True
        case str(), str():
            return fnmatch.fnmatchcase(came, re.sub(r"([*?[])", r"[\1]", shown).replace("…", "*"))
        case float(), float():
            return round(came, len(repr(shown).partition(".")[2])) == shown
    return bool(shown == came)


def alike_lines(shown: list[str], came: list[str]) -> bool:
    """Whether lines are what a page shows; an ellipsis is any text, and a line of one alone any lines."""
    if not shown or not came:
        return shown == came or set(shown) == {"…"}
    if shown[0].strip() == "…":
        return any(alike_lines(shown[1:], came[start:]) for start in range(len(came) + 1))
    return alike(shown[0].rstrip(), came[0].rstrip()) and alike_lines(shown[1:], came[1:])


def run_pages(names: list[str], *, keep: bool) -> int:
    """Run pages that share a server, or one page; print a line of JSON for each, and return how many failed."""
    failures = 0
    top = Path(tempfile.mkdtemp(prefix="docs-run-"))
    with ExitStack() as shared:
        if not keep:
            shared.callback(shutil.rmtree, top, ignore_errors=True)
        for number, name in enumerate(names):
            begin = time.monotonic()
            found: dict[str, Any] = {"page": name, "run": 0, "failed": None}
            blocks, serving = read(name)
            with ExitStack() as opened:
                try:
                    if serving and not number:
                        server = Page(top / "serving", [])
                        shared.callback(server.close)
                        server.serve(0, serving)
                    page = Page(top / str(number), blocks)
                    opened.callback(page.close)
                    for block in blocks:
                        if block.reason() is None:
                            page.run(block)
                            found["run"] += block.language != "first"
                except Failed as failed:
                    found["failed"] = f"{name}:{failed}"
                    failures += 1
            found["seconds"] = time.monotonic() - begin
            say(json.dumps(found))
    return failures


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def own_network() -> list[str]:
    """Return the words that give a command a network of its own; none where the system does not allow it."""
    words = ["unshare", "--user", "--map-root-user", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
    with suppress(OSError):
        if subprocess.run([*words, "true"], capture_output=True, check=False).returncode == 0:  # noqa: S603 - our own
            return words
    return []


def main() -> int:
    """Run pages, all of them if none is named; return 1 when one fails, or when another number of blocks is marked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("pages", nargs="*", metavar="PAGE")
    parser.add_argument("--keep", action="store_true", help="keep the clones, in the directory for temporary files")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        return run_pages(options.pages, keep=options.keep)
    begin = time.monotonic()
    found = {page: read(page) for page in pages()}
    groups: dict[str, list[str]] = {}
    for page in options.pages or found:
        blocks, serving = found[page]
        if any(block.reason() is None for block in blocks):
            groups.setdefault(serving or page, []).append(page)
    network = own_network()
    here = [*network, sys.executable, __file__, "--here", *(["--keep"] if options.keep else [])]

    def run(group: list[str]) -> tuple[int, int]:
        blocks = 0
        with subprocess.Popen([*here, *group], stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 - our own
            for line in process.stdout or ():
                page = json.loads(line)
                blocks += page["run"]
                state = f"FAILED\n{page['failed']}" if page["failed"] else "as shown"
                say(f"{page['page']}: {page['run']} blocks in {page['seconds']:.0f} s, {state}")
        return blocks, process.returncode

    # Pages of one network would want the same ports.
    with ThreadPoolExecutor(2 if network else 1) as lanes:
        ran = list(lanes.map(run, groups.values()))
    marked = [(block, *reason) for blocks, _ in found.values() for block in blocks if (reason := block.reason())]
    for block, mark, why in marked:
        say(f"{block.page}:{block.line}: {mark}: {why}")
    counts = Counter(mark for _, mark, _ in marked)
    place = "in networks of their own" if network else "on the network of this machine"
    say(f"{sum(number for number, _ in ran)} blocks were run in {time.monotonic() - begin:.0f} s, {place};")
    say(f"{counts['not run']} are not run, and {counts['shows']} show a form.")
    if counts != MARKED:
        say(f"Expected {dict(MARKED)}: run more blocks rather than fewer. Where fewer carry marks, lower the figures.")
    return int(counts != MARKED or any(code for _, code in ran))


if __name__ == "__main__":
    sys.exit(main())
