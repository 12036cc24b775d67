"""The page of a report: one HTML file with its style and its script, tables, and photos as data."""

import base64
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageOps

_PHOTO = 80
_QUALITY = 50


def page(title: str, parts: Iterable[str]) -> str:
    """Return a whole HTML document.

    Args:
        title: Plain text.
        parts: HTML, below the title.
    """
    here = files(__package__)
    style, script = ((here / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    # The policy is what makes "no network" true, whatever a file's name or a label holds.
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>\n{style}</style>\n</head>\n<body>\n<main>\n<h1>{escape(title)}</h1>\n"
        + "\n".join(parts)
        + f"\n</main>\n<script>\n{script}</script>\n</body>\n</html>\n"
    )


def paragraph(text: str, kind: str = "") -> str:
    """Return a paragraph of plain text."""
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def table(columns: Sequence[str], rows: Iterable[tuple[str, Sequence[str | tuple[str, float | None]]]]) -> str:
    """Return a table that sorts by the column that is clicked at.

    Args:
        columns: Headings.
        rows: The class of each row, and its cells: text, or text with the number that it sorts by.
    """
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    lines = []
    for kind, cells in rows:
        shown = "".join(
            f"<td>{escape(cell)}</td>"
            if isinstance(cell, str)
            else f'<td data-value="{"" if cell[1] is None else cell[1]}">{escape(cell[0])}</td>'
            for cell in cells
        )
        lines.append(f'<tr class="{kind}">{shown}</tr>')
    body = "\n".join(lines)
    whole = f"<thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody>"
    return f'<div class="wide"><table class="sortable">{whole}</table></div>'


def confusion(title: str, classes: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    """Return a confusion matrix: a row for each true class, a column for each predicted one."""
    head = "".join(f"<th><span>{escape(name)}</span></th>" for name in classes)
    lines = []
    for name, row in zip(classes, counts, strict=True):
        total = max(sum(row), 1)
        cells = "".join(f'<td style="--share: {count / total:.2f}">{count or ""}</td>' for count in row)
        lines.append(f"<tr><th>{escape(name)}</th>{cells}</tr>")
    return (
        f'<figure><figcaption>{escape(title)}</figcaption><div class="wide"><table class="matrix">'
        f"<thead><tr><th></th>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div></figure>"
    )


def photo(path: Path, caption: str, kind: str = "") -> str:
    """Return a small copy of a photo with a caption; a photo that cannot be read is grey."""
    try:
        with Image.open(path) as opened:
            opened.draft("RGB", (2 * _PHOTO, 2 * _PHOTO))
            image = ImageOps.fit(ImageOps.exif_transpose(opened).convert("RGB"), (_PHOTO, _PHOTO))
    except (OSError, ValueError, SyntaxError):
        image = Image.new("RGB", (_PHOTO, _PHOTO), "grey")
    encoded = BytesIO()
    image.save(encoded, "WEBP", quality=_QUALITY, method=6)
    data = base64.b64encode(encoded.getvalue()).decode("ascii")
    return (
        f'<figure class="photo {kind}" title="{escape(caption)}"><img alt="{escape(caption)}" '
        f'src="data:image/webp;base64,{data}">{escape(caption)}</figure>'
    )
