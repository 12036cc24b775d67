"""Parquet, through pyarrow: a column of images read, a file of vectors written, a row group at a time."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from microtome.embed.errors import EmbedError
from microtome.embed.images import ImageBytes, Located

_ROWS = 64
"""Images read at a time."""


def pyarrow(module: str = "pyarrow.parquet") -> Any:  # noqa: ANN401, pyarrow has no types
    """Import pyarrow.

    Raises:
        EmbedError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        raise EmbedError(
            "Parquet needs pyarrow, which is not installed: pip install 'microtome[parquet]'. "
            "Without it: --out vectors.npy or vectors.jsonl."
        ) from None


def rows(path: str) -> int:
    """Count a file's rows."""
    return int(_file(path).metadata.num_rows)


def column_images(path: str, column: str) -> Iterator[Located]:
    """List a column's images, by the numbers of their rows.

    The column holds bytes, or structs with a field `bytes`, as Hugging Face's datasets do.

    Raises:
        EmbedError: no such file or column, or one of another type.
    """
    file, place = _file(path), 0
    if column not in file.schema_arrow.names:
        raise EmbedError(f"Expected a column of {path}: {', '.join(file.schema_arrow.names)}. Received {column!r}.")
    for batch in file.iter_batches(_ROWS, columns=[column]):
        for value in batch.column(0).to_pylist():
            body = value.get("bytes") if isinstance(value, dict) else value
            if body is not None and not isinstance(body, bytes):
                raise EmbedError(f"Expected bytes in column {column!r} of {path}, found {type(body).__name__}.")
            yield ImageBytes(f"{path}::{place}", body or b"")
            place += 1


def _file(path: str) -> Any:  # noqa: ANN401
    parquet = pyarrow()
    if not Path(path).is_file():
        raise EmbedError(f"Expected FILE.parquet::COLUMN, and there is no file {path}.")
    try:
        return parquet.ParquetFile(path)
    except (OSError, ValueError) as error:
        raise EmbedError(f"{path} cannot be read as Parquet: {error}") from error
