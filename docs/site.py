"""Collect the pages of the site: `python docs/site.py build/pages`; `make site` then builds it with Zensical, strictly.

Pages keep their paths, and the README becomes the start page. A file that a page links to and that is no page, such as
recipe.yaml, is copied. Zensical checks links between pages with their anchors; links to other files are checked here.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
PAGES = ("*.md", "docs/*.md", "deploy/*.md", "examples/*.md")
LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)#\s]+)")


def pages() -> list[Path]:
    """List the pages that git tracks, relative to the repository."""
    words = ["git", "ls-files", *PAGES]
    listed = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, check=True)  # noqa: S603 - constant
    return [Path(line) for line in listed.stdout.splitlines()]


def links(page: Path) -> list[Path]:
    """List the files of the repository that a page links to, relative to the repository."""
    targets = LINK.findall((REPOSITORY / page).read_text(encoding="utf-8"))
    return [Path(os.path.normpath(page.parent / target)) for target in targets]


def main(directory: Path) -> int:
    """Write the pages into a new directory; return 1 when a page links to what is not a file."""
    shutil.rmtree(directory, ignore_errors=True)
    found = pages()
    linked = [(page, target) for page in found for target in links(page)]
    dead = [f"{page}: {target}" for page, target in linked if not (REPOSITORY / target).is_file()]
    if dead:
        sys.stderr.write("".join(f"Expected links to files of the repository. Received: {line}\n" for line in dead))
        return 1
    for file in {*found, *(target for _, target in linked)}:
        copy = directory / ("index.md" if file == Path("README.md") else file)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(REPOSITORY / file, copy)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
