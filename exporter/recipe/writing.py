"""Write recipes and the files beside them, each whole or not at all."""

import os
from collections.abc import Mapping
from pathlib import Path

import yaml


def in_one_line(value: object) -> str:
    """Return a value as YAML on one line."""
    text: str = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=1 << 30)
    return text.removesuffix("...\n").strip()


def write_files(folder: Path, texts: Mapping[str, str]) -> None:
    """Write files, by name; a run that dies leaves the old one or the new one."""
    for name, text in texts.items():
        draft = folder / f".{name}.tmp"
        # Names of files may hold what is no text.
        with draft.open("w", encoding="utf-8", errors="replace") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(folder / name)
